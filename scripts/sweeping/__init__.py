"""What scripts/sweep.py does: read a sweep, plan it, run it here or on a cluster, show how it goes."""
