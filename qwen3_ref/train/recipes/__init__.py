"""The stages of the technical report, one file each: what is learned from what, and by which loss."""
