"""The RESP front: it takes commands from any client and sends each to the owner of its key."""
