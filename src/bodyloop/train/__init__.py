"""Training: losses, tasks and the one loop that runs them. Needs the extra ``bodyloop[train]``."""
