"""Snapshots of the official checkpoints: found on disk, fetched when asked for, and verified against
published numbers. Only `fetch` touches the network."""
