"""Measure speed and memory on this machine: training, decoding, start-up and every token mixer."""
