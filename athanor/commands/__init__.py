"""The commands of the command line, by theme. Each parses, calls one stage and prints; imports are inside, so that
``athanor --help`` does not wait for torch."""
