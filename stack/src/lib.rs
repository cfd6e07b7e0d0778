//! What the stack is, and how a host is brought to it.
//!
//! Settings and what was observed go into a pure planner; what comes out is data that the host applies under a lock,
//! with a journal, a health gate and a way back. Invariant: nothing here prints, and only `process` starts programs.

pub mod addition;
pub mod backup;
pub mod component;
pub mod dashboard;
pub mod declare;
pub mod durable;
pub mod failure;
pub mod host;
pub mod launchd;
pub mod layout;
pub mod machine;
pub mod observed;
pub mod plan;
pub mod process;
pub mod protocol;
pub mod release;
pub mod secret;
pub mod settings;
pub mod ssh;
pub mod supervise;
pub mod transport;
