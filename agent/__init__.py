"""What runs on a node: fetch, publish, the wrapper, and the cache itself.

The rule of this package: the standard library only, and nothing else of ours, because it starts once for every task as
`python -I -S <this folder or a zipapp of it> <verb>` and must start fast. Modules that cost milliseconds are imported
where they are used. Only what starts once per node, the CSI driver (agent.csi), needs more: grpcio and protobuf.
"""
