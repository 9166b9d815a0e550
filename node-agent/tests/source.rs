//! The directory source: what is wrong never takes away what worked, what is removed is gone, and each complaint names
//! object, field and cure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use node_agent::source::Desired;
use node_agent::source::directory::{Options, Reader};

const NETWORK: &str = include_str!("../../examples/quickstart/network.yaml");
const BRANCH: &str = include_str!("../../examples/quickstart/branch-a.yaml");

struct Dir {
    path: PathBuf,
    reader: Reader,
}

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dmvpn-source-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("m")).expect("directory");
        let reader = Reader::new(Options {
            dir: path.join("m"),
            node: "branch-a".into(),
            labels: BTreeMap::new(),
            state_dir: path.join("state"),
        });
        Self { path, reader }
    }

    fn put(&mut self, file: &str, text: &str) -> Desired {
        std::fs::write(self.path.join("m").join(file), text).expect("file");
        self.reader.read()
    }

    fn remove(&mut self, file: &str) -> Desired {
        std::fs::remove_file(self.path.join("m").join(file)).expect("file");
        self.reader.read()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn subnets(desired: &Desired) -> Vec<String> {
    desired.endpoints.iter().flat_map(|e| e.spec.subnets.iter().map(|s| s.cidr.to_string())).collect()
}

#[test]
fn a_bad_edit_leaves_the_last_good_version() {
    let mut dir = Dir::new("edit");
    dir.put("network.yaml", NETWORK);
    let good = dir.put("branch-a.yaml", BRANCH);
    assert_eq!((subnets(&good), good.problems.len()), (vec!["10.20.0.0/24".to_owned()], 0));

    let edits = [
        ("half written", BRANCH.replace("10.20.0.0/24", "[10.2"), "NotYaml"),
        ("host bits", BRANCH.replace("10.20.0.0/24", "10.20.0.5/24"), "Invalid"),
        ("unknown field", BRANCH.replace("subnets:", "subnet:"), "Invalid"),
        ("outside the overlay", BRANCH.replace("10.255.0.11", "10.254.0.11"), "AddressOutsideOverlay"),
        ("the hub's address", BRANCH.replace("10.255.0.11", "10.255.0.1"), "AddressTaken"),
    ];
    for (what, text, reason) in edits {
        assert_ne!(text, BRANCH, "{what}: the edit changes something");
        let bad = dir.put("branch-a.yaml", &text);
        assert_eq!(bad.endpoints, good.endpoints, "{what}");
        let [problem] = bad.problems.as_slice() else { panic!("{what}: one problem, {:?}", bad.problems) };
        assert_eq!(problem.reason, reason, "{what}: {problem:?}");
        assert!(!problem.message.is_empty() && problem.object.contains("branch-a"), "{what}: {problem:?}");
        let mended = dir.put("branch-a.yaml", BRANCH);
        assert_eq!(mended, good, "{what}: mended");
    }
    let widened = dir.put("branch-a.yaml", &BRANCH.replace("10.20.0.0/24", "10.20.0.0/23"));
    assert_eq!(subnets(&widened), ["10.20.0.0/23"], "a good edit counts at once");
}

#[test]
fn what_is_removed_is_gone_and_a_bad_network_is_not() {
    let mut dir = Dir::new("remove");
    dir.put("network.yaml", NETWORK);
    let good = dir.put("branch-a.yaml", BRANCH);
    let bad = dir.put("network.yaml", &NETWORK.replace("key: 100", "key: 4294967296"));
    assert_eq!(bad.endpoints, good.endpoints);
    let problem = bad.problems.first().expect("a problem");
    assert_eq!(
        (problem.object.as_str(), problem.field.as_str()),
        ("DmvpnNetwork/branches", "spec.tunnel.key")
    );
    dir.put("network.yaml", NETWORK);
    let gone = dir.remove("branch-a.yaml");
    assert_eq!((gone.endpoints.len(), gone.problems.len()), (0, 0), "{:?}", gone.problems);
}

#[test]
fn the_first_of_two_files_counts_and_secrets_are_asked_for_by_name() {
    let mut dir = Dir::new("secret");
    let network =
        NETWORK.replace("networkId: 100", "networkId: 100\n    authenticationSecretRefs: [{name: nhrp}]");
    dir.put("network.yaml", &network);
    let missing = dir.put("branch-a.yaml", BRANCH);
    let reasons = |d: &Desired| d.problems.iter().map(|p| p.reason.clone()).collect::<Vec<_>>();
    assert_eq!((missing.endpoints.len(), reasons(&missing)), (0, vec!["SecretMissing".to_owned()]));

    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: nhrp}\nstringData: {password: s3cret}\n";
    assert_eq!(reasons(&dir.put("secret.yaml", secret)), ["SecretNotLabelled"]);
    let labelled = secret.replace("{name: nhrp}", "{name: nhrp, labels: {dmvpn.io/network: branches}}");
    assert_eq!(
        reasons(&dir.put("secret.yaml", &labelled.replace("password:", "other:"))),
        ["SecretKeyMissing"]
    );
    let good = dir.put("secret.yaml", &labelled);
    let passwords: Vec<_> = good.endpoints.iter().flat_map(|e| e.passwords.clone()).collect();
    assert_eq!((passwords, reasons(&good)), (vec![b"s3cret".to_vec()], vec![]));
    assert!(!format!("{good:?}").contains("s3cret"), "no password in what is logged");

    let twice = dir.put("z.yaml", &BRANCH.replace("10.20.0.0/24", "10.21.0.0/24"));
    assert_eq!(
        (subnets(&twice), reasons(&twice)),
        (vec!["10.20.0.0/24".to_owned()], vec!["Duplicate".to_owned()])
    );
}
