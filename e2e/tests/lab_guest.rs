//! The guest: boots, hands back statuses and files, ends on its deadline, has the kernel that we need; and a
//! ring-3 test fails when its body does.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use e2e::guest::{Job, Output, processes};
use e2e::{paths, ring3};

fn job(name: &str, script: &str) -> Job {
    Job::new(script, paths::results().unwrap().join("lab_guest").join(name))
}

#[test]
fn the_status_and_the_files_of_a_command_come_back() {
    let job = job("status", "echo hello >$DMVPN_LAB_OUT/greeting; exit 42");
    assert_eq!(job.run(Output::Inherit).unwrap(), 42);
    assert_eq!(std::fs::read_to_string(job.out.join("greeting")).unwrap(), "hello\n");
    assert_eq!(job.run(Output::Inherit).unwrap(), 42, "a second run starts from an empty folder");
}

#[test]
fn nothing_that_a_guest_writes_elsewhere_stays() {
    let left = std::env::temp_dir().join(format!("dmvpn-lab-{}", std::process::id()));
    let script =
        format!("echo x >/etc/dmvpn-lab-was-here && test -s /etc/dmvpn-lab-was-here && ls {:?}", "/etc");
    let mut job = job("overlay", &script);
    job.env.push(("LEFT".into(), left.to_string_lossy().into()));
    assert_eq!(job.run(Output::Inherit).unwrap(), 0);
    assert!(!std::path::Path::new("/etc/dmvpn-lab-was-here").exists());
}

#[test]
fn a_guest_that_passes_its_deadline_is_killed_with_all_its_processes() {
    let mut job = job("deadline", "sleep 300");
    job.deadline = Duration::from_secs(8);
    let start = Instant::now();
    let error = job.run(Output::Inherit).unwrap_err().to_string();
    assert!(error.contains("the guest to finish"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let pid: u32 = std::fs::read_to_string(job.out.join(".guest/pid")).unwrap().parse().unwrap();
    assert_eq!(processes::tree(pid), [pid], "children left");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the guest itself is left");
}

#[test]
fn the_kernel_has_what_the_data_path_needs() {
    ring3(|lab| {
        let host = lab.host("one")?;
        host.ip_batch(&[
            "link add under type dummy".into(),
            "addr add 192.0.2.2/24 dev under".into(),
            "link set under up".into(),
            "link add mgre type gre key 100 ttl 64 local 192.0.2.2".into(),
            "addr add 10.255.0.1/32 dev mgre".into(),
            "link set mgre arp on multicast on up".into(),
            "neigh add 10.255.0.2 lladdr 192.0.2.3 nud permanent dev mgre".into(),
            "route add 10.20.0.0/24 via 10.255.0.2 dev mgre proto 214 onlink".into(),
            "link add meta type ip6gre external".into(),
            "link set meta up".into(),
            "route add 10.9.0.2/32 encap ip6 id 100 src 2001:db8::a dst 2001:db8::b hoplimit 64 key dev meta"
                .into(),
            "link add front type vrf table 10".into(),
            "xfrm state add src 192.0.2.2 dst 192.0.2.3 proto esp spi 0x100 mode transport \
             aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128"
                .into(),
        ])?;
        host.netem("under", "delay 1ms loss 1%")?;
        host.nft(
            "table inet t {
                set seen { type ipv4_addr . ipv4_addr; flags dynamic,timeout; timeout 60s; size 100; }
                chain c {
                    type filter hook forward priority 0; policy accept;
                    iifname mgre oifname mgre \
                     update @seen { ip saddr . ip daddr limit rate 2/minute burst 1 packets } \
                     log group 100 snaplen 128 queue-threshold 1
                    meta l4proto gre rt ipsec missing drop
                }
            }
",
        )?;
        let link = host.ip_json("-d link show dev mgre")?;
        let data = &link[0]["linkinfo"]["info_data"];
        ensure!(data["ikey"] == "0.0.0.100" && data["remote"] == "any", "{data}");
        Ok(())
    });
}

#[test]
#[ignore = "fails on purpose: a_failing_body_fails_the_test runs it"]
fn planted_error() {
    ring3(|lab| {
        lab.host("witness")?;
        bail!("planted error")
    });
}

#[test]
#[ignore = "fails on purpose: a_failing_body_fails_the_test runs it"]
fn planted_panic() {
    ring3(|lab| -> Result<()> {
        lab.host("witness")?;
        panic!("planted panic")
    });
}

#[test]
fn a_failing_body_fails_the_test() {
    for planted in ["planted_error", "planted_panic"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", planted, "--include-ignored", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{planted} passed: {text}");
        assert!(text.contains(&planted.replace('_', " ")), "{text}");
        let evidence = paths::results().unwrap().join("lab_guest").join(planted).join("evidence");
        let witness = std::fs::read_to_string(evidence.join("witness.txt")).unwrap();
        assert!(witness.contains("# ip address") && witness.contains("127.0.0.1/8"), "{witness}");
    }
}
