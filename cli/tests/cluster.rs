//! `kubectl dmvpn` as a user runs it, against an API server's side of lists and of pods/exec that the tests write
//! themselves: what a kubelet would send, and what it would not. (Real kubelets: the lab's scenarios.)

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};
use view::Report;

const LIST: &str = "/api/v1/pods";

#[test]
fn every_node_under_its_name() {
    let api = Api::new(&[pod("b", "west-1"), pod("a", "east-1")]);
    api.exec("a", Exec::report("east-1")).exec("b", Exec::report("west-1"));
    let out = api.run(&["show", "dmvpn"]);
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let table = view::show_dmvpn(&report("x"));
    assert_eq!(text, format!("Node: east-1\n{table}\nNode: west-1\n{table}"));
    let asked = api.asked();
    let list = asked.iter().find(|p| p.starts_with(LIST)).expect("a list");
    assert!(
        list.contains(
            "labelSelector=app.kubernetes.io%2Fname%3Ddmvpn%2Capp.kubernetes.io%2Fcomponent%3Dagent"
        )
    );
    let exec = asked.iter().find(|p| p.contains("/pods/a/exec")).expect("an exec");
    for part in [
        "/api/v1/namespaces/dmvpn-system/pods/a/exec?",
        "container=agent",
        "command=dmvpn-agent&command=show&command=-o&command=json",
    ] {
        assert!(exec.contains(part), "{exec} has no {part}");
    }
}

#[test]
fn nodes_can_be_named_and_json_is_by_node() {
    let api = Api::new(&[pod("a", "east-1"), pod("b", "west-1")]);
    api.exec("b", Exec::report("west-1"));
    let out = api.run(&["show", "dmvpn", "--node", "west-1", "-o", "json"]);
    assert!(out.status.success(), "{out:?}");
    let answer: BTreeMap<String, Report> = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(answer, [("west-1".to_owned(), report("west-1"))].into());
    assert!(!api.asked().iter().any(|p| p.contains("/pods/a/")), "the other node was asked");
    fails_with(
        &api.run(&["show", "dmvpn", "--node", "north"]),
        &["there is no agent pod on node north; there are on east-1, west-1"],
    );
}

#[test]
fn a_namespace_narrows_the_list() {
    let api = Api::new(&[]);
    let out = api.run(&["-n", "elsewhere", "show", "dmvpn"]);
    fails_with(&out, &["there is no agent pod", "in namespace elsewhere: is the chart installed"]);
    assert!(api.asked()[0].starts_with("/api/v1/namespaces/elsewhere/pods?"), "{:?}", api.asked());
    fails_with(&api.run(&["show", "dmvpn"]), &["in any namespace: is the chart installed"]);
}

#[test]
fn one_node_that_fails_does_not_hide_the_others() {
    let mut pending = pod("c", "west-2");
    pending["status"]["phase"] = "Pending".into();
    let api = Api::new(&[pod("a", "east-1"), pod("b", "west-1"), pending]);
    let complaint = "dmvpn-agent: no agent answers at /run/dmvpn/agent.sock: is it running?\n";
    api.exec("a", Exec::report("east-1"))
        .exec("b", Exec::failure(complaint, "command terminated with exit code 1"));
    let out = api.run(&["show", "dmvpn"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("Node: east-1\n"), "{out:?}");
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 2, "{errors}");
    assert_eq!(
        lines[0],
        "error: node west-1: `dmvpn-agent show` failed in pod dmvpn-system/b: dmvpn-agent: no agent answers at \
         /run/dmvpn/agent.sock: is it running?"
    );
    assert!(
        lines[1].starts_with("error: node west-2: pod dmvpn-system/c is not ready (Pending)"),
        "{errors}"
    );
}

#[test]
fn what_the_kubelet_says_is_passed_on() {
    let api = Api::new(&[pod("a", "east-1")]);
    let missing = "exec: \"dmvpn-agent\": executable file not found in $PATH";
    for (exec, said) in [
        (Exec::failure("", missing), missing),
        (
            Exec::Refused(403, "eve cannot create pods/exec"),
            "pod dmvpn-system/a: eve cannot create pods/exec",
        ),
        (
            Exec::Refused(500, "error dialing backend"),
            "dialing backend: can the API server reach the kubelet",
        ),
        (
            Exec::Answer { stdout: b"{}".to_vec(), stderr: vec![], status: success() },
            "does not answer as dmvpn-agent does",
        ),
        (
            Exec::Answer { stdout: b"{\"no".to_vec(), stderr: vec![], status: Value::Null },
            "the connection ended before",
        ),
    ] {
        api.exec("a", exec);
        fails_with(&api.run(&["show", "dmvpn"]), &["error: node east-1: ", said]);
    }
}

#[test]
fn a_large_report_comes_whole() {
    let mut large = report("east-1");
    let peer = large.tunnels[0].peers[0].clone();
    large.tunnels[0].peers = vec![peer; 8_000];
    let api = Api::new(&[pod("a", "east-1")]);
    let stdout = serde_json::to_vec(&large).expect("JSON");
    assert!(stdout.len() > 2 << 20);
    api.exec("a", Exec::Answer { stdout, stderr: vec![], status: success() });
    let out = api.run(&["show", "dmvpn", "-o", "json"]);
    let answer: BTreeMap<String, Report> = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(answer["east-1"], large);
}

#[test]
fn tunnels_that_only_some_nodes_have() {
    let api = Api::new(&[pod("a", "east-1"), pod("b", "west-1")]);
    let mut other = report("west-1");
    other.tunnels[0].network = "lab".into();
    let stdout = serde_json::to_vec(&other).expect("JSON");
    api.exec("a", Exec::report("east-1"))
        .exec("b", Exec::Answer { stdout, stderr: vec![], status: success() });
    let out = api.run(&["--network", "branches", "show", "dmvpn"]);
    assert!(out.status.success(), "{out:?}");
    assert!(!String::from_utf8_lossy(&out.stdout).contains("west-1"), "{out:?}");
    let named = api.run(&["--network", "branches", "show", "dmvpn", "--node", "west-1"]);
    fails_with(&named, &["node west-1 has no tunnel with network branches"]);
    let none = api.run(&["--network", "x", "show", "dmvpn"]);
    assert_eq!(String::from_utf8_lossy(&none.stderr).lines().count(), 2, "{none:?}");
}

#[test]
fn a_cluster_that_cannot_be_reached() {
    let place = Place::new();
    let nothing =
        program().arg("--kubeconfig").arg(place.0.join("no")).args(["show", "dmvpn"]).output().unwrap();
    fails_with(&nothing, &["cannot use the kubeconfig", &place.0.join("no").display().to_string()]);

    let api = Api::new(&[]);
    let context = api.run(&["--context", "north", "show", "dmvpn"]);
    fails_with(&context, &["cannot use the kubeconfig", "north"]);

    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = kubeconfig(&place, port);
    let out = program().env("KUBECONFIG", config).args(["show", "dmvpn"]).output().unwrap();
    fails_with(&out, &["cannot list the agents' pods", "onnection refused"]);
}

#[test]
fn a_refusal_of_the_api_server_is_passed_on() {
    let api = Api::new(&[]);
    api.refuse("pods is forbidden: User \"eve\" cannot list resource \"pods\"");
    let out = api.run(&["show", "dmvpn"]);
    fails_with(&out, &["cannot list the agents' pods: pods is forbidden: User \"eve\""]);
}

#[track_caller]
fn fails_with(out: &Output, words: &[&str]) {
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(out.stdout.is_empty(), "{out:?}");
    for words in words {
        assert!(error.contains(words), "{error} does not say: {words}");
    }
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
}

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubectl-dmvpn"));
    program.env_remove("DMVPN_SOCKET").env_remove("KUBECONFIG").env("HOME", "/nonexistent");
    program
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "dmvpn-system"},
        "spec": {"nodeName": node, "containers": [{"name": "agent"}]},
        "status": {"phase": "Running"}
    })
}

fn report(node: &str) -> Report {
    let tunnel = json!({
        "network": "branches", "interface": "dm-branches", "index": 7, "role": "Hub", "state": "Up", "reason": "",
        "message": "", "state_seconds": 472, "admin_up": true, "line_up": true, "addresses": ["10.255.0.1/32"],
        "vrf": "", "tunnel_vrf": "", "source": "192.0.2.2", "destination": null, "key": 100, "mtu": 1400,
        "bandwidth_kbps": null, "network_id": 100, "holding_time": 600, "protection": "",
        "interface_state_control": false, "nhs": [], "cache": [],
        "peers": [{
            "nbma": "203.0.113.2", "claimed_nbma": null, "address": "10.255.0.12", "target": "10.255.0.12/32",
            "state": "Up", "up_down_seconds": 472, "attributes": view::Attributes { dynamic: true, ..Default::default() }
        }],
        "traffic": view::Traffic::default()
    });
    let tunnel = serde_json::from_value(tunnel).expect("a tunnel");
    Report { node: node.into(), version: "0.1.0".into(), tunnels: vec![tunnel], problems: vec![] }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

/// What becomes of a pods/exec.
#[derive(Clone)]
enum Exec {
    /// The upgrade is refused with this status and message.
    Refused(u16, &'static str),
    /// The command's output, then the status channel (null: the connection ends without).
    Answer { stdout: Vec<u8>, stderr: Vec<u8>, status: Value },
}

impl Exec {
    fn report(node: &str) -> Self {
        let stdout = serde_json::to_vec(&report(node)).expect("JSON");
        Self::Answer { stdout, stderr: vec![], status: success() }
    }

    fn failure(stderr: &str, message: &str) -> Self {
        let status =
            json!({"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode"});
        Self::Answer { stdout: vec![], stderr: stderr.into(), status }
    }
}

fn kubeconfig(place: &Place, port: u16) -> PathBuf {
    let path = place.0.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "u", "user": {}}]
    });
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// A folder of its own, gone with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("dmvpn-cluster-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let place = std::env::temp_dir().join(name);
        std::fs::create_dir(&place).unwrap();
        Self(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Default)]
struct State {
    pods: Vec<Value>,
    refusal: Option<String>,
    exec: BTreeMap<String, Exec>,
    asked: Vec<String>,
}

/// The two things that are asked of an API server.
struct Api {
    state: Arc<Mutex<State>>,
    config: PathBuf,
    _place: Place,
}

impl Api {
    fn new(pods: &[Value]) -> Self {
        let state = Arc::new(Mutex::new(State { pods: pods.to_vec(), ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::new();
        let config = kubeconfig(&place, listener.local_addr().unwrap().port());
        let shared = Arc::clone(&state);
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self { state, config, _place: place }
    }

    fn exec(&self, pod: &str, exec: Exec) -> &Self {
        self.state.lock().unwrap().exec.insert(pod.into(), exec);
        self
    }

    fn refuse(&self, message: &str) {
        self.state.lock().unwrap().refusal = Some(message.into());
    }

    fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    fn run(&self, words: &[&str]) -> Output {
        program().arg("--kubeconfig").arg(&self.config).args(words).output().unwrap()
    }
}

/// Requests of one connection until it ends or becomes a WebSocket.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let (pods, forbidden) = {
            let mut state = state.lock().unwrap();
            state.asked.push(path.clone());
            (state.pods.clone(), state.refusal.clone())
        };
        if let Some((_, rest)) = path.split_once("/pods/") {
            let pod = rest.split('/').next().unwrap_or_default();
            let exec =
                state.lock().unwrap().exec.get(pod).cloned().unwrap_or(Exec::Refused(404, "no such pod"));
            return execute(stream, &head, exec);
        }
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
        let answer = forbidden.map_or_else(|| answer("200 OK", &list), |message| refusal(403, &message));
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(status: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn refusal(code: u16, message: &str) -> String {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                        "reason": "Forbidden", "message": message});
    answer(&format!("{code} Refused"), &status)
}

fn execute(mut stream: TcpStream, head: &str, exec: Exec) {
    let (stdout, stderr, status) = match exec {
        Exec::Refused(code, message) => {
            let _ = stream.write_all(refusal(code, message).as_bytes());
            return;
        }
        Exec::Answer { stdout, stderr, status } => (stdout, stderr, status),
    };
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.to_owned())
            .next()
            .unwrap_or_default()
    };
    let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
    let _ = write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: \
         {accept}\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n"
    );
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    let mut send = |channel: u8, bytes: &[u8]| {
        let message = [&[channel], bytes].concat();
        let _ = socket.send(Message::Binary(message.into()));
    };
    // The kubelet sends pieces of at most 32 KiB.
    stdout.chunks(32 << 10).for_each(|piece| send(1, piece));
    stderr.chunks(32 << 10).for_each(|piece| send(2, piece));
    if !status.is_null() {
        send(3, status.to_string().as_bytes());
    }
    let _ = socket.close(None);
    let _ = socket.flush();
}
