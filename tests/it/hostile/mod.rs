//! What others send to harm the service, and shortages of the machine.

mod connections;
mod shortages;
mod slow_peers;
mod watchers;
