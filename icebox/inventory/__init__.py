"""What lies on the disk: stores, runs, unfinished work, caches. Nothing is changed."""
