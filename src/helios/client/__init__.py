"""What programs talk to a cluster with: connections, and the verbs of administration over them."""
