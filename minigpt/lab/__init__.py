"""What is asked of components and runs: do they keep their contract, is a variant better?"""
