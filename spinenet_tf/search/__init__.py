"""Architecture search: spaces, searchers that ask and tell, the proxy task, the runner."""
