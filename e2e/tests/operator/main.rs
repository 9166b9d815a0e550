//! Ring 2: the operator as a process, with the chart's flags and rights, against a real API server. Agents are played by
//! kubectl: what they would write to an endpoint's status.

use std::time::Duration;

use e2e::ring2::{Needs, carry_out, ring2_with};

mod addresses;
mod bad;
mod basics;
mod bench;
mod drain;
mod endings;
mod metrics;
mod replicas;
mod rollout;
mod secrets;
mod silence;

use bench::Bench;

const SOON: Duration = Duration::from_secs(30);
const NEEDS: Needs = Needs { scheduler: false, deadline: Duration::from_secs(240) };

#[test]
fn users_apply_and_are_told() {
    ring2_with(NEEDS, |cluster| {
        carry_out(
            &Bench::new(cluster)?,
            &[
                ("before", basics::nothing_looks_done_before_it_is),
                ("quickstart", basics::endpoints_follow),
                ("conditions", basics::conditions_follow_the_agents),
                ("events", basics::transitions_are_told_once),
                ("metrics", metrics::tell_what_the_api_says),
                ("steady", basics::nothing_is_written_where_nothing_changes),
                ("rollout", rollout::goes_node_by_node_and_stops_where_it_does_harm),
                ("refused", bad::a_refused_spoke_stops_nobody),
                ("bad edits", bad::bad_edits_keep_what_was_in_force),
                ("undecodable", bad::an_undecodable_spoke_stops_nobody),
                ("undecodable endpoints", bad::undecodable_endpoints_are_told_and_mended),
                ("steady again", bad::bad_objects_are_written_to_once),
            ],
        )
    });
}

#[test]
fn endpoints_come_and_go_with_what_wants_them() {
    ring2_with(NEEDS, |cluster| {
        carry_out(
            &Bench::new(cluster)?,
            &[
                ("addresses", addresses::come_before_endpoints),
                ("restart", addresses::outlive_a_restart),
                ("release", addresses::go_after_endpoints),
                ("silent agent", silence::an_agent_without_pod_is_silent_after_a_while),
                ("silent node", silence::a_node_that_is_not_ready_is_silent_at_once),
                ("by hand", endings::deleted_by_hand_it_comes_back),
                ("spoke", endings::a_spoke_goes_when_its_agent_is_done),
                ("node", endings::a_node_takes_its_endpoints_along),
                ("network", endings::a_network_goes_when_its_agents_are_done),
            ],
        )
    });
}

#[test]
fn operators_take_turns_hand_out_secrets_and_drain() {
    ring2_with(NEEDS, |cluster| {
        carry_out(
            &Bench::new(cluster)?,
            &[
                ("two of them", replicas::one_of_two_leads),
                ("credentials", secrets::conditions_and_revision_follow_the_secrets),
                ("secrets", secrets::are_handed_to_agents_only),
                ("SIGTERM", replicas::a_farewell_hands_over_at_once),
                ("kill -9", replicas::a_crash_hands_over_in_time),
                ("frozen", replicas::a_frozen_leader_writes_nothing_when_it_goes_on),
                ("failed drain", drain::a_drain_in_vain_names_who_is_left),
                ("drain", drain::takes_everything_away),
                ("never both", replicas::never_two_at_a_time),
            ],
        )
    });
}
