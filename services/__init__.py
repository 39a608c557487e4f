"""The three services. They speak only over Redis Streams, and none imports another; process.py is what each sets up."""
