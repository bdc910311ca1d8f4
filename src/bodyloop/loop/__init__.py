"""The loop over three roles: detect, estimate the pose, segment, mask out, again."""
