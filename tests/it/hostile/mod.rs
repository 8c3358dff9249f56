//! What others send to harm the service, to learn what they may not, or to make it work harder than it should; and shortages of
//! the machine.

mod brute_force;
mod connections;
mod contract;
mod files;
mod forms;
mod fuzz_targets;
mod growth;
mod proxy;
mod queues;
mod scopes;
mod shortages;
mod slow_peers;
mod watchers;
