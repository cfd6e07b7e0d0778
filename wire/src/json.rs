//! Incremental look at one top-level field of a JSON object.
