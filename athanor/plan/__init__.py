"""Model and cluster → memory, time, timeline, search: what a run will take, before a device is rented."""
