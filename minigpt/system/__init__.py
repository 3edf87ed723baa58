"""Access to the operating system: files, downloads, locks, memory, processes."""
