//! What a process does again and again beside its work.

mod background_tasks;
mod retention;
