"""What the operating system gives: files, downloads, locks, memory, processes."""
