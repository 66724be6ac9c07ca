"""What is asked in a process of its own: these modules load native code, see Note [a crash takes only its answer]."""
