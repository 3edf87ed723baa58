"""Speed and memory on this machine: training, decoding, starting up, and every token mixer."""
