//! Ring 1: the Helm chart as helm renders it. What is in force for which values, what is refused, what each account may
//! do. That an API server takes it, and holds the agents to it, is shown in ring 2 (`admission.rs`).

mod accounts;
mod definitions;
mod docs;
mod helm;
mod monitoring;
mod names;
mod objects;
mod pods;
mod refused;
mod rights;
mod shape;
mod values;
