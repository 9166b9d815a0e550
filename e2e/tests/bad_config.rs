//! Wrong configuration on running agents: each mistake is told with object, field, value and cure, takes
//! nothing away that works – not even over a restart – and is forgotten when it is mended.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Lab;
use e2e::lab::{Agent, Host};
use e2e::ring3;
use e2e::scene::Scene;
use e2e::scene::overlay::{BRANCH_A, HUB, NETWORK, TUNNEL, link_index, manifests, quickstart};
use e2e::wait;
use view::State;

const SOON: Duration = Duration::from_secs(10);

/// A hub and `branch-a`, whose configuration is spoilt.
struct Pair {
    hub: Agent,
    branch: Agent,
    index: u64,
    addresses: String,
}

impl Pair {
    fn start(lab: &Lab) -> Result<Self> {
        let scene = Scene::build(lab)?;
        let hub = Agent::start(
            &scene.site("hub")?.host,
            &["dmvpn.io/hub=hub1"],
            &manifests(&["network.yaml", "hub-lan.yaml"])?,
        )?;
        let host = &scene.site("branch-a")?.host;
        let branch = Agent::start(host, &[], &manifests(&["network.yaml", "branch-a.yaml"])?)?;
        branch.wait_until_up(NETWORK, SOON)?;
        let (index, addresses) = (link_index(host, TUNNEL)?, addresses(host)?);
        ensure!(addresses.contains(&BRANCH_A.to_string()), "{addresses}");
        let pair = Self { hub, branch, index, addresses };
        pair.stands("the start")?;
        Ok(pair)
    }

    fn host(&self) -> &Host {
        self.branch.host()
    }

    /// The tunnel of old: Up, the same link with the same addresses, and packets reach the hub.
    fn stands(&self, after: &str) -> Result<()> {
        let tunnel = self.branch.tunnel(NETWORK).with_context(|| format!("after {after}"))?;
        let seen = (tunnel.state, tunnel.reason.as_str());
        ensure!(seen == (State::Up, ""), "after {after}: {seen:?} {}", tunnel.message);
        let now = (link_index(self.host(), TUNNEL)?, addresses(self.host())?);
        ensure!(now == (self.index, self.addresses.clone()), "after {after}: {now:?}");
        wait::until(SOON, "a ping to the hub's tunnel address", || {
            self.host().run(&["ping", "-c1", "-W1", &HUB.to_string()])
        })?;
        Ok(())
    }

    /// A problem is told, for people too, with all these words; the tunnel stands all the same.
    fn tells(&self, object: &str, reason: &str, words: &[&str]) -> Result<()> {
        // The one before may have had the same reason.
        wait::until(SOON, &format!("{words:?} to be told"), || {
            let shown = self.branch.cli("show problems")?;
            let missing =
                [object, reason].into_iter().chain(words.iter().copied()).find(|w| !shown.contains(w));
            wait::ensure(missing.is_none(), || format!("no {missing:?} in:\n{shown}"))
        })?;
        let problem = self.branch.wait_for_problem(object, reason, SOON)?;
        ensure!(self.branch.log().contains(&problem.message), "not in the log: {}", problem.message);
        self.stands(&format!("{object} {reason}"))
    }

    /// As [`Self::tells`], and nothing else is told.
    fn tells_only(&self, object: &str, reason: &str, words: &[&str]) -> Result<()> {
        self.tells(object, reason, words)?;
        let problems = self.branch.report()?.problems;
        ensure!(problems.len() == 1, "{problems:?}");
        Ok(())
    }

    /// Everything is good again.
    fn mended(&self, by: &str) -> Result<()> {
        self.branch.wait_for_no_problem(SOON).with_context(|| by.to_owned())?;
        let shown = self.branch.cli("show problems")?;
        ensure!(shown.contains("No problems"), "{shown}");
        self.stands(by)
    }

    /// A new file gives this problem and leaves with it.
    fn adds(&self, text: &str, object: &str, reason: &str, words: &[&str]) -> Result<()> {
        // A name that comes before all others: to be first in the directory makes nobody right.
        self.branch.write("00-new.yaml", text)?;
        self.tells(object, reason, words)?;
        self.branch.remove("00-new.yaml")?;
        self.mended(&format!("{reason} was removed"))
    }

    fn restart(&mut self) -> Result<()> {
        self.branch.kill()?;
        self.branch.restart()
    }
}

fn addresses(host: &Host) -> Result<String> {
    host.run(&["ip", "-o", "-4", "address", "show", "dev", TUNNEL])
}

/// A file of the quickstart with one text replaced.
fn changed(file: &str, from: &str, to: &str) -> Result<String> {
    let text = quickstart(file)?;
    ensure!(text.contains(from), "{file} has no {from:?}");
    Ok(text.replace(from, to))
}

/// A spoke elsewhere.
fn spoke(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: dmvpn.io/v1alpha1\nkind: DmvpnSpoke\nmetadata: {{name: {name}}}\n\
         spec: {{networkRef: {{name: {NETWORK}}}, placement: {{type: External}}, {spec}}}\n"
    )
}

#[test]
fn a_broken_file_leaves_the_last_good_in_force() {
    ring3(|lab| {
        let mut pair = Pair::start(lab)?;
        let (network, branch) = (quickstart("network.yaml")?, quickstart("branch-a.yaml")?);
        let stays = "what it gave last stays in force";

        // Half written, in the middle of a line.
        let cut = network.find("nbma: [{addr").context("nbma")? + 12;
        pair.branch.write("network.yaml", &network[..cut])?;
        pair.tells_only("network.yaml", "NotYaml", &["network.yaml:", "correct the line", stays])?;
        // Nothing at all: an editor between truncating and writing, a disk that is full.
        pair.branch.write("network.yaml", "")?;
        pair.tells_only("network.yaml", "FileUnreadable", &["empty", "remove the file", stays])?;
        fs::write(pair.branch.manifests().join("network.yaml"), [b'a', 0xff, 0xfe])?;
        pair.tells_only("network.yaml", "FileUnreadable", &["UTF-8", stays])?;
        pair.branch.write("network.yaml", &network)?;
        pair.mended("network.yaml was written again")?;

        // A link that leads nowhere is a file that cannot be read, not one that is gone.
        pair.branch.remove("branch-a.yaml")?;
        std::os::unix::fs::symlink("/nowhere/a.yaml", pair.branch.manifests().join("branch-a.yaml"))?;
        wait::until(SOON, "the link to be told", || {
            pair.branch.wait_for_problem("branch-a.yaml", "FileUnreadable", Duration::ZERO)
        })?;
        pair.stands("a dangling link")?;
        pair.branch.remove("branch-a.yaml")?;
        pair.branch.write("branch-a.yaml", &branch)?;
        pair.mended("the file is there again")?;

        // A value that is refused: the object's last good version stays.
        let refused = changed("branch-a.yaml", "10.20.0.0/24", "10.20.0.7/24")?;
        pair.branch.write("branch-a.yaml", &refused)?;
        let words =
            ["branch-a.yaml:", "spec.subnets[0].cidr", "10.20.0.7/24", "did you mean 10.20.0.0/24", stays];
        pair.tells_only("DmvpnSpoke/branch-a", "Invalid", &words)?;
        pair.branch.write("branch-a.yaml", &branch)?;
        pair.mended("the value was corrected")?;

        // One document of two is broken: the other one counts, and nobody is a duplicate of himself.
        pair.branch.write("network.yaml", &format!("{network}---\n{branch}"))?;
        pair.branch.remove("branch-a.yaml")?;
        pair.mended("both objects in one file")?;
        pair.branch.write("network.yaml", &format!("{}\n---\n{branch}", &network[..cut]))?;
        pair.tells_only("network.yaml", "NotYaml", &[stays])?;

        // The agent starts while that is so.
        pair.restart()?;
        pair.branch.wait_until_up(NETWORK, SOON)?;
        pair.tells_only("network.yaml", "NotYaml", &[stays])?;

        // The whole directory is away.
        let away = pair.branch.manifests().with_extension("away");
        fs::rename(pair.branch.manifests(), &away)?;
        pair.branch.wait_for_problem(
            &pair.branch.manifests().to_string_lossy(),
            "DirectoryUnreadable",
            SOON,
        )?;
        pair.stands("the directory is away")?;
        fs::rename(&away, pair.branch.manifests())?;
        pair.tells_only("network.yaml", "NotYaml", &[stays])?;
        pair.branch.write("network.yaml", &format!("{network}---\n{branch}"))?;
        pair.mended("all was corrected")
    });
}

#[test]
fn a_start_with_nothing_good_takes_nothing_away() {
    ring3(|lab| {
        let mut pair = Pair::start(lab)?;
        // Neither the files nor the memory of an earlier run: what is in the kernel is all that there is.
        let state = pair.branch.manifests().with_file_name("state");
        pair.branch.write("network.yaml", "spec: [")?;
        pair.tells_only("network.yaml", "NotYaml", &[])?;
        pair.branch.kill()?;
        fs::remove_dir_all(&state).with_context(|| state.display().to_string())?;
        pair.branch.restart()?;
        pair.branch.wait_for_problem("network.yaml", "NotYaml", SOON)?;
        let shown = pair.branch.cli("show problems")?;
        ensure!(shown.contains("nothing of it is in force"), "{shown}");
        ensure!(shown.contains("DmvpnSpoke/branch-a spec.networkRef.name: NetworkNotFound"), "{shown}");
        let shown = pair.branch.cli("show dmvpn")?;
        ensure!(shown.contains("No tunnel on node branch-a"), "{shown}");
        // Packets still flow as before.
        pair.host().run(&["ping", "-c1", "-W1", &HUB.to_string()])?;
        ensure!(link_index(pair.host(), TUNNEL)? == pair.index, "another link");

        pair.branch.write("network.yaml", &quickstart("network.yaml")?)?;
        pair.branch.wait_until_up(NETWORK, SOON)?;
        pair.mended("the network was written again")?;

        // An explicit wish is carried out, even one from while the agent was away.
        pair.branch.kill()?;
        pair.branch.remove("branch-a.yaml")?;
        pair.branch.restart()?;
        wait::until(SOON, "the link to go", || {
            ensure!(link_index(pair.host(), TUNNEL).is_err(), "{TUNNEL} is still there");
            Ok(())
        })?;
        ensure!(pair.branch.report()?.problems.is_empty(), "{:?}", pair.branch.report()?.problems);
        Ok(())
    });
}

#[test]
fn objects_that_contradict_what_works_are_at_fault_themselves() {
    ring3(|lab| {
        let pair = Pair::start(lab)?;
        let new = "DmvpnSpoke/aaa";
        let adds =
            |spec: &str, reason: &str, words: &[&str]| pair.adds(&spoke("aaa", spec), new, reason, words);
        adds(
            "overlayAddresses: [10.255.0.99], subnets: [{cidr: 10.20.0.128/25}]",
            "OverlappingSubnets",
            &["spec.subnets[0].cidr", "10.20.0.128/25", "DmvpnSpoke/branch-a"],
        )?;
        adds(
            "overlayAddresses: [10.254.0.9]",
            "AddressOutsideOverlay",
            &["spec.overlayAddresses[0]", "10.254.0.9", "use an address in 10.255.0.0/16"],
        )?;
        let taken = ["spec.overlayAddresses[0]", "10.255.0.11", "DmvpnSpoke/branch-a", "use a free address"];
        adds("overlayAddresses: [10.255.0.11]", "AddressTaken", &taken)?;
        adds("overlayAddresses: [10.255.0.1]", "AddressTaken", &["hub", "use a free address"])?;

        // The same object in a second file, here one that comes after the first.
        pair.branch.write("zz.yaml", &quickstart("branch-a.yaml")?)?;
        pair.tells_only("DmvpnSpoke/branch-a", "Duplicate", &["branch-a.yaml", "zz.yaml", "remove one"])?;
        pair.branch.remove("zz.yaml")?;
        pair.mended("the duplicate is gone")?;

        // A second network that the kernel could not tell from the first.
        let second = changed("network.yaml", "name: branches", "name: aaa")?
            .replace("10.255.", "10.254.")
            .replace("networkId: 100", "networkId: 101");
        let member = changed("branch-a.yaml", "name: branch-a", "name: aaa-branch-a")?
            .replace("networkRef: {name: branches}", "networkRef: {name: aaa}")
            .replace("10.255.", "10.254.")
            .replace("10.20.", "10.21.")
            .replace("nodeName: aaa-branch-a", "nodeName: branch-a");
        pair.adds(
            &format!("{second}---\n{member}"),
            "DmvpnNetwork/aaa",
            "TunnelConflict",
            &["spec.tunnel.key", "key 100", "give one of them another tunnel.key"],
        )?;
        ensure!(link_index(pair.host(), "dm-aaa").is_err(), "the second network has a link");

        // What this version cannot do is refused, and the network stays as it was.
        let ipsec = "  nhrp:\n    networkId: 100";
        let required = changed(
            "network.yaml",
            ipsec,
            &format!(
                "  ipsec:\n    mode: Required\n    authentication: {{type: PSK, \
                 pskSecretRefs: [{{name: a}}]}}\n    deniedIdentities: [x.example.net]\n{ipsec}"
            ),
        )?;
        pair.branch.write("network.yaml", &required)?;
        pair.tells(
            "DmvpnNetwork/branches",
            "NotSupported",
            &["spec.ipsec.deniedIdentities", "x.example.net"],
        )?;
        pair.branch.write("network.yaml", &quickstart("network.yaml")?)?;
        pair.mended("the network asks for what there is")
    });
}

#[test]
fn a_secret_that_is_not_there_leaves_the_tunnel_as_it_was() {
    ring3(|lab| {
        let mut pair = Pair::start(lab)?;
        let object = "DmvpnNetwork/branches";
        let field = "spec.nhrp.authenticationSecretRefs[0]";
        let to = "networkId: 100\n    authenticationSecretRefs: [{name: nhrp, key: word}]";
        pair.branch.write("network.yaml", &changed("network.yaml", "networkId: 100", to)?)?;
        pair.tells_only(object, "SecretMissing", &[field, "Secret nhrp is not there", "add it"])?;
        let secret = |labels: &str, key: &str| {
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: nhrp{labels}}}\n\
                 stringData: {{{key}: s3cret}}\n"
            )
        };
        pair.branch.write("secret.yaml", &secret("", "word"))?;
        pair.tells_only(object, "SecretNotLabelled", &[field, "dmvpn.io/network: branches"])?;
        let labels = ", labels: {dmvpn.io/network: branches}";
        pair.branch.write("secret.yaml", &secret(labels, "password"))?;
        pair.tells_only(object, "SecretKeyMissing", &[field, "has no key word", "put the secret there"])?;

        // Over a restart: without a password there is no tunnel to run, but none is taken away either.
        pair.restart()?;
        pair.branch.wait_for_problem(object, "SecretKeyMissing", SOON)?;
        ensure!(link_index(pair.host(), TUNNEL)? == pair.index, "another link");
        pair.host().run(&["ping", "-c1", "-W1", &HUB.to_string()])?;

        // With its password it registers.
        pair.hub.write("secret.yaml", &secret(labels, "word"))?;
        pair.hub.write("network.yaml", &changed("network.yaml", "networkId: 100", to)?)?;
        pair.branch.write("secret.yaml", &secret(labels, "word"))?;
        pair.branch.wait_until_up(NETWORK, SOON)?;
        pair.mended("the Secret is complete")?;
        let told = format!("{}{}", pair.branch.log(), serde_json::to_string(&pair.branch.report()?)?);
        ensure!(!told.contains("s3cret"), "the password is told:\n{told}");
        Ok(())
    });
}

#[test]
fn an_interface_that_is_missing_or_somebody_elses_is_told_and_never_touched() {
    ring3(|lab| {
        let mut pair = Pair::start(lab)?;
        let address = "overlayAddresses: [10.255.0.11]";
        let source = format!("{address}\n  tunnelSource: {{from: Interface, interface: nosuch0}}");
        pair.branch.write("branch-a.yaml", &changed("branch-a.yaml", address, &source)?)?;
        let told = |pair: &Pair| -> Result<()> {
            let tunnel = pair.branch.wait_for_state(NETWORK, State::Intf, "InterfaceMissing", SOON)?;
            let shown = pair.branch.cli("show dmvpn")?;
            for word in ["InterfaceMissing", "nosuch0 does not exist", "correct tunnelSource.interface"] {
                ensure!(shown.contains(word), "no {word:?} in:\n{shown}");
            }
            ensure!(tunnel.message.contains("nosuch0"), "{}", tunnel.message);
            ensure!(link_index(pair.host(), TUNNEL)? == pair.index, "another link");
            Ok(())
        };
        told(&pair)?;
        pair.restart()?;
        told(&pair)?;
        pair.branch.write("branch-a.yaml", &quickstart("branch-a.yaml")?)?;
        pair.branch.wait_until_up(NETWORK, SOON)?;
        pair.mended("the interface was corrected")?;

        // While the agent is away somebody takes the name.
        pair.branch.kill()?;
        pair.host().ip(&format!("link del {TUNNEL}"))?;
        pair.host().ip(&format!("link add {TUNNEL} type dummy"))?;
        pair.host().ip(&format!("addr add 10.9.9.9/32 dev {TUNNEL}"))?;
        let foreign = || pair.host().run(&["ip", "-d", "addr", "show", TUNNEL]);
        let before = foreign()?;
        pair.branch.restart()?;
        let tunnel = pair.branch.wait_for_state(NETWORK, State::Intf, "InterfaceNameTaken", SOON)?;
        ensure!(tunnel.message.contains("remove it") && tunnel.index == 0, "{tunnel:?}");
        let shown = pair.branch.cli("show dmvpn")?;
        ensure!(shown.contains("InterfaceNameTaken") && shown.contains("tunnel.interfaceName"), "{shown}");
        let after = pair.host().run(&["ip", "-d", "addr", "show", TUNNEL])?;
        ensure!(before == after, "somebody else's link was changed:\n{before}\n{after}");

        pair.host().ip(&format!("link del {TUNNEL}"))?;
        pair.branch.wait_until_up(NETWORK, SOON)?;
        pair.index = link_index(pair.host(), TUNNEL)?;
        pair.addresses = addresses(pair.host())?;
        pair.stands("the foreign link is gone")
    });
}
