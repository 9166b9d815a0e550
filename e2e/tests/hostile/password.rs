//! A network with a password: whatever bears none, another or two is dropped, whatever its type; the sender hears
//! so, at most a few times a second, and never about an error.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use e2e::lab::Capture;
use e2e::lab::inject::{self, Nhrp, ext, in_gre};
use e2e::lab::peek::NhrpKind;
use e2e::ring3_with;
use e2e::scene::Scene;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{BRANCH_A, HUB, KEY, NETWORK};

use super::attacks::{Attack, registration};
use super::{
    ERROR_INDICATION, FREE, NEEDS, PURGE_REQUEST, REGISTRATION_REPLY, RESOLUTION_REQUEST, SOON,
    TRAFFIC_INDICATION, counted, unchanged,
};

pub(crate) const REASON: &str = "authentication failed";
/// Two, as while they are exchanged.
const PASSWORDS: [&str; 2] = ["s3cret-b", "s3cret-a"];
/// Errors to one peer: at once, and each second after that.
const ERRORS: usize = 16;

fn network(text: String) -> String {
    let refs = "networkId: 100\n    authenticationSecretRefs: [{name: new}, {name: old}]";
    let secrets = ["new", "old"].iter().zip(PASSWORDS).map(|(name, password)| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, labels: {{dmvpn.io/network: {NETWORK}}}}}\n\
             stringData: {{password: {password}}}\n"
        )
    });
    text.replace("networkId: 100", refs) + &secrets.collect::<String>()
}

fn value(password: &str) -> Vec<u8> {
    [&[0, 0, 0, 1], password.as_bytes()].concat()
}

#[test]
fn without_the_password_nothing_is_heard() {
    ring3_with(NEEDS, |lab| {
        let branches = Branches::start_with(Scene::build(lab)?, network)?;
        let (hub, a) = (branches.scene.site("hub")?, branches.a()?);
        let mallory = branches.scene.site("router")?;
        let before = [hub.host.dump()?, a.host.dump()?];
        let capture = Capture::start(&mallory.host, "wan0", "proto gre")?;
        for attack in attacks(mallory.nbma(), hub.nbma(), a.nbma()) {
            let at_hub = attack.to == hub.nbma();
            let agent = if at_hub { &branches.overlay.hub } else { &branches.overlay.branch_a };
            counted(&branches, mallory, agent, &attack).with_context(|| attack.what.to_owned())?;
        }
        let errors = |capture: &Capture| {
            capture.count(|p| {
                let code = p.nhrp.as_ref().map(|n| n.request_id >> 16);
                p.is_nhrp(NhrpKind::ErrorIndication) && code == Some(11)
            })
        };
        capture.wait_for(SOON, "error 11", |p| p.is_nhrp(NhrpKind::ErrorIndication))?;
        ensure!(errors(&capture)? >= 8, "{} errors", errors(&capture)?);
        // A flood of them: not so many answers.
        let many = vec![in_gre(Some(KEY), &registration(mallory.nbma(), FREE).bytes()); 400];
        inject::send(&mallory.host, mallory.nbma(), hub.nbma(), &many)?;
        let good = registration(mallory.nbma(), FREE).extension(ext::AUTHENTICATION, &value(PASSWORDS[1]));
        let good = Nhrp { id: 0x99, flags: 0, ..good };
        inject::send(&mallory.host, mallory.nbma(), hub.nbma(), &[in_gre(Some(KEY), &good.bytes())])?;
        let answer = capture.wait_for(SOON, "the answer to the right one", |p| {
            p.is_nhrp(NhrpKind::RegistrationReply) && p.nhrp.as_ref().is_some_and(|n| n.request_id == 0x99)
        })?;
        println!("answered: {answer}");
        let told = errors(&capture)?;
        ensure!(told <= 3 * ERRORS, "{told} errors for more than 400 packets");
        // The registration was a real one: taken back, and all is as before.
        let purge = Nhrp::new(PURGE_REQUEST, mallory.nbma(), FREE, HUB).entry(32, mallory.nbma(), Some(FREE));
        let purge = purge.extension(ext::AUTHENTICATION, &value(PASSWORDS[0])).bytes();
        inject::send(&mallory.host, mallory.nbma(), hub.nbma(), &[in_gre(Some(KEY), &purge)])?;
        capture.wait_for(SOON, "the purge's answer", |p| p.is_nhrp(NhrpKind::PurgeReply))?;
        for (before, site) in before.iter().zip([hub, a]) {
            unchanged(before, &site.host)?;
        }
        branches.ensure_direct_traffic()?;
        for agent in [&branches.overlay.hub, &branches.overlay.branch_a, &branches.overlay.branch_b] {
            let shown = agent.cli("show dmvpn detail")? + &agent.cli("show dmvpn -o json")?;
            let snapshot = std::fs::read_dir(agent.dir())?.filter_map(|entry| {
                let path = entry.ok()?.path();
                path.extension().is_some_and(|it| it == "json").then(|| std::fs::read_to_string(path).ok())?
            });
            let told = agent.log() + &shown + &snapshot.collect::<String>();
            ensure!(PASSWORDS.iter().all(|it| !told.contains(it)), "a password is told:\n{told}");
        }
        Ok(())
    });
}

fn attacks(mallory: Ipv4Addr, hub: Ipv4Addr, a: Ipv4Addr) -> Vec<Attack> {
    let attack = |what, to, packets: Vec<Nhrp>| {
        let packets = packets.iter().map(Nhrp::bytes).collect();
        Attack { what, from: mallory, to, packets, reason: Some(REASON) }
    };
    let claim = || registration(mallory, FREE);
    let with = |value: &[u8]| claim().extension(ext::AUTHENTICATION, value);
    let good = value(PASSWORDS[0]);
    let longer = value("s3cret-bb");
    let twice = with(&good).extension(ext::AUTHENTICATION, &good);
    let hashed = [&[0, 0, 0, 2], PASSWORDS[0].as_bytes()].concat();
    let wrong = [b"".as_slice(), &[0, 0, 0, 1], &value("S3cret-b"), &value("s3cret"), &longer, &hashed];
    vec![
        attack("a registration without a password", hub, vec![claim()]),
        attack("registrations with wrong ones", hub, wrong.iter().map(|value| with(value)).collect()),
        attack("a registration with the right one twice", hub, vec![twice]),
        attack(
            "other types without one, at the hub",
            hub,
            vec![
                Nhrp::new(RESOLUTION_REQUEST, mallory, FREE, BRANCH_A).entry(32, mallory, None),
                Nhrp::new(PURGE_REQUEST, mallory, FREE, HUB).entry(32, mallory, Some(BRANCH_A)),
            ],
        ),
        attack(
            "other types without one, at a branch",
            a,
            vec![
                Nhrp::new(TRAFFIC_INDICATION, hub, HUB, BRANCH_A)
                    .about(Ipv4Addr::new(10, 20, 0, 10), Ipv4Addr::new(10, 99, 0, 9)),
                Nhrp::new(REGISTRATION_REPLY, a, BRANCH_A, HUB).entry(32, a, None),
                Nhrp::new(ERROR_INDICATION, hub, HUB, BRANCH_A)
                    .error(6, &[0; 12])
                    .extension(ext::AUTHENTICATION, &value("wrong")),
            ],
        ),
    ]
}
