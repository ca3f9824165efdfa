"""Ray itself: a session, the machines of a cluster and the storage they share, the memory of a process."""
