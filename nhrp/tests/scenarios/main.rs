//! Whole networks of engines on a simulated network and clock, each with a model of its kernel's tables.

#![allow(unreachable_pub, reason = "one binary: `pub` means shared between the scenarios")]

mod assignment;
mod beside;
mod budgets;
mod conformance;
mod extensions;
mod found;
mod groups;
mod hierarchy;
mod hub_list;
mod hubs;
mod members;
mod multicast;
mod nat;
mod net;
mod paths;
mod phases;
mod prefixes;
mod purges;
mod registration;
mod restart;
mod safety;
mod scale;
mod secrets;
mod server;
mod shortcuts;
mod transit;
mod vectors;
