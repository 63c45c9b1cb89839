"""What each command does: from its arguments to a reply."""
