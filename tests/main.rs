//! End to end: the real binary against real processes on loopback.
