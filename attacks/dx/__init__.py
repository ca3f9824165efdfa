"""DX, the change that is trained: the smallest one, norm by norm (`minimal`), and the course's form (`penalty`)."""
