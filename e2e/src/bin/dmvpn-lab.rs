//! The lab's command: the demo, the open scene, a way into it, and single commands in a guest.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use e2e::bench::{self, load};
use e2e::guest::{Job, Output, quote};
use e2e::lab::{groups, inject, pinger};
use e2e::{demo, enter, images, paths};

#[derive(Parser)]
#[command(name = "dmvpn-lab", about = "The DMVPN lab: demo, scene, guests")]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Tell the story, chapter by chapter
    Demo {
        /// Leave the scene running and print how to enter each host
        #[arg(long)]
        keep: bool,
    },
    /// Build just the scene and open a shell in it
    Lab,
    /// Open a shell in a host of the running scene, or run a command there
    Enter {
        /// Name of the host; `guest` is outside all hosts
        host: String,
        /// The command; none opens a shell
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// End the running scene
    Stop,
    /// Make the container images of operator and agent, and the store that nodes take them from
    Images,
    /// Send pings on time (the lab's own use)
    #[command(hide = true)]
    Ping {
        /// Whom to ask
        target: std::net::Ipv4Addr,
        /// How many
        count: u32,
        /// Microseconds between two
        interval: u64,
        /// Pipe to wait at before the first
        gate: Option<std::path::PathBuf>,
        /// File that ends the run early
        #[arg(long)]
        stop: Option<std::path::PathBuf>,
    },
    /// Send GRE packets from a file of hex lines (the lab's own use)
    #[command(hide = true)]
    Inject {
        /// Source address, any
        from: std::net::IpAddr,
        /// Destination address
        to: std::net::IpAddr,
        /// One packet a line, from the GRE header on
        file: std::path::PathBuf,
        /// So many addresses, from that one on, take turns (IPv4)
        #[arg(default_value_t = 1)]
        senders: u32,
    },
    /// Measure hub, spoke and engine beside FRR's, and the control plane at scale
    Bench(bench::Scale),
    /// Play many spokes (the lab's own use)
    #[command(hide = true)]
    Load(load::Load),
    /// Print what comes to a multicast group by a link (the lab's own use)
    #[command(hide = true)]
    Hear {
        /// The link
        link: String,
        /// The group
        group: std::net::IpAddr,
    },
    /// Send a text to a multicast group by a link (the lab's own use)
    #[command(hide = true)]
    Say {
        /// The link
        link: String,
        /// The group
        group: std::net::IpAddr,
        /// The text
        text: String,
    },
    /// Run a command in a fresh guest
    Guest {
        /// Memory in MiB
        #[arg(long, default_value_t = 768)]
        memory: u32,
        /// Seconds from boot to the end
        #[arg(long, default_value_t = 600)]
        deadline: u64,
        /// The command
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    let status = match Arguments::parse().command {
        Subcommands::Demo { keep } => demo::demo(keep),
        Subcommands::Lab => demo::lab(),
        Subcommands::Enter { host, words } => enter::enter(&host, &words),
        Subcommands::Stop => demo::stop().map(|()| 0),
        Subcommands::Images => images::command(),
        Subcommands::Ping { target, count, interval, gate, stop } => pinger::checked_count(count)
            .and_then(|n| {
                pinger::run(target, n, Duration::from_micros(interval), gate.as_deref(), stop.as_deref())
            })
            .map(|()| 0),
        Subcommands::Inject { from, to, file, senders } => {
            inject::run((from, senders), to, &file).map(|()| 0)
        }
        Subcommands::Bench(scale) => bench::bench(&scale),
        Subcommands::Load(load) => load::run(load).map(|()| 0),
        Subcommands::Hear { link, group } => groups::hear(&link, group).map(|()| 0),
        Subcommands::Say { link, group, text } => groups::send(&link, group, &text).map(|()| 0),
        Subcommands::Guest { memory, deadline, words } => guest(memory, deadline, &words),
    };
    match status {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("dmvpn-lab: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn guest(memory_mib: u32, deadline: u64, words: &[String]) -> anyhow::Result<i32> {
    let script: Vec<String> = words.iter().map(|w| quote(w)).collect();
    let out = paths::results()?.join(format!("guest-{}", std::process::id()));
    let job = Job {
        memory_mib,
        deadline: Duration::from_secs(deadline),
        ..Job::new(format!("exec {}", script.join(" ")), out)
    };
    job.run(Output::Inherit)
}
