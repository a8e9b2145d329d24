"""Scale-out on Ray: replicas on other machines that take jobs from the same queue.

The queue stays what it is, a table with leases: a replica is a worker like those of a server, in an
actor's process. So nothing is lost with a replica or its machine, and nothing passes through the
server that started it, which may die and find its replicas again.
"""
