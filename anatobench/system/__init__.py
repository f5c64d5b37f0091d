"""What every room stands on: files, processes, signals, memory, progress."""
