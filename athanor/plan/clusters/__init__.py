"""The shipped cluster files, opened by name with ``athanor.plan.cluster.load_cluster``."""
