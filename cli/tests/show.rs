//! The program as a user runs it, against a unix socket that answers, answers wrongly, late, or not at all.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use view::{Attributes, CacheEntry, CacheKind, Peer, Problem, Report, Role, State, Traffic, Tunnel};

#[test]
fn show_dmvpn_prints_the_table() {
    let agent = Agent::with(&report());
    let out = agent.run(&["show", "dmvpn"]);
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(text, view::show_dmvpn(&report()));
    assert!(text.contains("\n     1 203.0.113.2         10.255.0.12    UP 00:07:52     D\n"), "{text}");
    assert_eq!(agent.request(), "GET /v1/report HTTP/1.1");
}

#[test]
fn detail_interface_and_network_narrow_it() {
    let agent = Agent::with(&report());
    let text = agent.text(&["show", "dmvpn", "detail", "interface", "dm-lab"]);
    assert!(text.contains("Interface dm-lab is up/up"), "{text}");
    assert!(!text.contains("dm-branches"), "{text}");
    let text = agent.text(&["--network", "branches", "show", "ip", "nhrp"]);
    assert!(
        text.starts_with("10.2.0.0/24 via 10.255.0.12\n   dm-branches created 00:00:32, expire 00:09:27\n"),
        "{text}"
    );

    let out = agent.run(&["show", "dmvpn", "interface", "dm-x"]);
    fails_with(
        &out,
        "node hub has no tunnel with interface dm-x; it has dm-branches (network branches), dm-lab (network lab)",
    );
}

#[test]
fn json_is_the_report_or_its_part() {
    let agent = Agent::with(&report());
    let whole: Report = serde_json::from_str(&agent.text(&["show", "dmvpn", "-o", "json"])).unwrap();
    assert_eq!(whole, report());
    let cache: serde_json::Value =
        serde_json::from_str(&agent.text(&["-o", "json", "show", "ip", "nhrp"])).unwrap();
    assert_eq!(cache[0]["cache"][0]["nbma"], "203.0.113.2");
    let problems: serde_json::Value =
        serde_json::from_str(&agent.text(&["-o", "json", "show", "problems"])).unwrap();
    assert_eq!(problems[0]["field"], "spec.subnets[0].cidr");
}

#[test]
fn every_table_of_the_help_prints() {
    let agent = Agent::with(&report());
    for (line, holds) in [
        ("show ip nhrp brief", "dynamic  dm-branches <   >"),
        ("show ip nhrp detail", "Preference: 255"),
        ("show ip nhrp nhs detail", "Legend: E=Expecting replies"),
        ("show ip nhrp traffic", "   Sent: Total 0"),
        ("show ip nhrp summary", "IP NHRP cache 1 entries"),
        ("show ipv6 nhrp summary", "IPv6 NHRP cache 0 entries"),
        ("show problems", "DmvpnSpoke/west-lan spec.subnets[0].cidr: SubnetOverlap"),
    ] {
        let text = agent.text(&line.split(' ').collect::<Vec<_>>());
        assert!(text.contains(holds), "{line}: {text}");
    }
}

#[test]
fn the_environment_names_the_socket() {
    let agent = Agent::with(&report());
    let out = program().env("DMVPN_SOCKET", &agent.socket).args(["show", "dmvpn"]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn no_socket_and_a_dead_socket_ask_for_the_agent() {
    let place = Place::new();
    let nowhere = place.0.join("nothing.sock");
    let cure = format!("no agent answers at {}: is dmvpn-agent running?", nowhere.display());
    fails_with(&run(&nowhere, &["show", "dmvpn"]), &cure);

    let dead = place.0.join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    fails_with(&run(&dead, &["show", "dmvpn"]), "is dmvpn-agent running?");
}

#[test]
fn a_file_that_is_no_socket() {
    let place = Place::new();
    let file = place.0.join("file");
    std::fs::write(&file, "").unwrap();
    fails_with(&run(&file, &["show", "dmvpn"]), &file.display().to_string());
}

#[test]
fn garbage_is_named_as_such() {
    let answers: [&[u8]; 7] = [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        // Cut short: closed before the length that was promised.
        b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"node\":",
        b"",
        b"\0\0\0\0",
    ];
    for answer in answers {
        let agent = Agent::serving(answer.to_vec(), Duration::ZERO);
        let out = agent.run(&["show", "dmvpn"]);
        fails_with(&out, &format!("{} does not answer as dmvpn-agent does (", agent.socket.display()));
    }
}

#[test]
fn an_agent_that_is_not_ready() {
    let agent = Agent::serving(
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec(),
        Duration::ZERO,
    );
    fails_with(&agent.run(&["show", "dmvpn"]), "is not ready");
}

#[test]
fn a_late_answer_is_still_taken() {
    let agent = Agent::serving(ok(&report()), Duration::from_secs(1));
    assert!(agent.run(&["show", "dmvpn"]).status.success());
}

#[test]
fn a_slow_answer_meets_the_deadline() {
    let agent = Agent::serving(ok(&report()), Duration::from_secs(60));
    let begin = Instant::now();
    let out = agent.run(&["show", "dmvpn"]);
    let took = begin.elapsed();
    fails_with(&out, "did not answer within 5 s");
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut large = report();
    let peer = large.tunnels[0].peers[0].clone();
    large.tunnels[0].peers = vec![peer; 20_000];
    let agent = Agent::with(&large);
    let mut child = program()
        .arg("--socket")
        .arg(&agent.socket)
        .args(["show", "dmvpn"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(first.starts_with("Legend:"), "{first}");
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}

#[track_caller]
fn fails_with(out: &Output, words: &str) {
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(error.contains(words), "{error} does not say: {words}");
    assert!(out.stdout.is_empty(), "{out:?}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    assert!(error.starts_with("error: "), "{error}");
}

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubectl-dmvpn"));
    program.env_remove("DMVPN_SOCKET");
    program
}

fn run(socket: &Path, words: &[&str]) -> Output {
    program().arg("--socket").arg(socket).args(words).output().unwrap()
}

/// A folder of its own, gone with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("dmvpn-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
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

/// Something that listens where the agent would: answers each connection with the same bytes, after a while.
struct Agent {
    socket: PathBuf,
    requests: std::sync::mpsc::Receiver<String>,
    _place: Place,
}

impl Agent {
    fn with(report: &Report) -> Self {
        Self::serving(ok(report), Duration::ZERO)
    }

    fn serving(answer: Vec<u8>, after: Duration) -> Self {
        let place = Place::new();
        let socket = place.0.join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (seen, requests) = std::sync::mpsc::channel();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let _ = seen.send(serve(stream, &answer, after));
            }
        });
        Self { socket, requests, _place: place }
    }

    fn run(&self, words: &[&str]) -> Output {
        run(&self.socket, words)
    }

    #[track_caller]
    fn text(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert!(out.status.success(), "{words:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// First line of the request that was served.
    fn request(&self) -> String {
        self.requests.recv_timeout(Duration::from_secs(10)).unwrap()
    }
}

fn serve(mut stream: UnixStream, answer: &[u8], after: Duration) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    let _ = reader.read_line(&mut first);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        line.clear();
    }
    if !after.is_zero() {
        // Waits for the client to leave or for the time to pass, whichever is first.
        let _ = stream.set_read_timeout(Some(after));
        let _ = reader.read(&mut [0]);
    }
    let _ = stream.write_all(answer);
    first.trim_end().into()
}

fn ok(report: &Report) -> Vec<u8> {
    let body = serde_json::to_vec(report).unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

fn report() -> Report {
    Report {
        node: "hub".into(),
        version: "0.1.0".into(),
        tunnels: vec![tunnel("branches", "dm-branches"), tunnel("lab", "dm-lab")],
        problems: vec![Problem {
            object: "DmvpnSpoke/west-lan".into(),
            field: "spec.subnets[0].cidr".into(),
            reason: "SubnetOverlap".into(),
            message: "10.2.0.0/24 belongs to branch-a; choose another".into(),
        }],
    }
}

fn tunnel(network: &str, interface: &str) -> Tunnel {
    Tunnel {
        network: network.into(),
        interface: interface.into(),
        index: 7,
        role: Role::Hub,
        state: State::Up,
        reason: String::new(),
        message: String::new(),
        state_seconds: 472,
        admin_up: true,
        line_up: true,
        addresses: vec!["10.255.0.1/16".parse().unwrap()],
        vrf: String::new(),
        tunnel_vrf: String::new(),
        source: "192.0.2.2".parse().ok(),
        destination: None,
        key: Some(100),
        mtu: 1400,
        path_mtu: None,
        bandwidth_kbps: None,
        network_id: 100,
        holding_time: 600,
        protection: String::new(),
        hindrance: String::new(),
        remark: String::new(),
        keepalive: None,
        interface_state_control: false,
        nhs: vec![],
        peers: vec![Peer {
            nbma: "203.0.113.2".parse().ok(),
            claimed_nbma: None,
            address: "10.255.0.12".parse().unwrap(),
            target: "10.255.0.12/32".parse().unwrap(),
            state: State::Up,
            up_down_seconds: Some(472),
            attributes: Attributes { dynamic: true, ..Attributes::default() },
            group: None,
        }],
        cache: if network == "branches" { vec![entry()] } else { vec![] },
        traffic: Traffic::default(),
    }
}

fn entry() -> CacheEntry {
    CacheEntry {
        target: "10.2.0.0/24".parse().unwrap(),
        via: "10.255.0.12".parse().unwrap(),
        kind: CacheKind::Dynamic,
        flags: vec!["router".into(), "rib".into()],
        nbma: "203.0.113.2".parse().ok(),
        claimed_nbma: None,
        created_seconds: 32,
        expire_seconds: Some(567),
        preference: 255,
        requesters: vec![],
        reason: String::new(),
        software: None,
        group: None,
    }
}
