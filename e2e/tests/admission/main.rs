//! Ring 2: the chart on a real API server. What an agent may write with the token of its pod and what not, what both
//! accounts may do at all, that the programs need no more than that, and what install, upgrade and uninstall leave behind.

use std::time::Duration;

use e2e::cluster::product::NAMESPACE;
use e2e::ring2::{Needs, carry_out, ring2_with};

mod accounts;
mod policy;
mod programs;
mod release;
#[path = "../chart/rights.rs"]
mod rights;
mod who;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn the_chart_on_a_real_server() {
    ring2_with(Needs { scheduler: true, deadline: Duration::from_secs(240) }, |cluster| {
        for node in ["east-1", "west-1"] {
            cluster.register_node(node, &[])?;
        }
        carry_out(
            cluster,
            &[
                ("install", release::install),
                ("pods", accounts::pods_are_admitted),
                ("pod security", accounts::pods_keep_to_their_standard),
                ("own status", policy::an_agent_writes_the_status_of_its_node_only),
                ("beyond rights", policy::the_policy_holds_whatever_rbac_allows),
                ("rights", accounts::accounts_may_what_is_listed),
                ("doors", accounts::agents_see_no_secrets_and_only_their_own),
                ("upgrade", release::an_upgrade_keeps_what_others_wrote),
                ("failed drain", release::a_drain_that_does_not_end_keeps_everything),
                ("uninstall", release::an_uninstall_keeps_kinds_and_objects),
                ("again", release::installed_again),
            ],
        )
    });
}
