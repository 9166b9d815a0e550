//! strongSwan's IKE daemon on a host, as Debian has it, without any configuration: the agent tells it everything.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vici::{Frames, Message, Packet};

use super::host::Host;
use super::process::Process;
use crate::wait;

const PROGRAM: &str = "/usr/sbin/charon-systemd";
/// How long it may take until its socket is there.
const START: Duration = Duration::from_secs(20);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// A running charon. Dropping it ends it, with which its SAs go.
#[derive(Debug)]
pub struct Charon {
    host: Host,
    configuration: PathBuf,
    socket: PathBuf,
    process: Process,
}

/// The VICI socket of a host: its agent looks for it there.
#[must_use]
pub fn socket(host: &Host) -> PathBuf {
    Path::new("/run/dmvpn").join(host.name()).join("charon.vici")
}

impl Charon {
    /// Starts the daemon of `host`, and returns when its socket is there.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(host: &Host) -> Result<Self> {
        let socket = socket(host);
        let dir = socket.parent().context("folder")?;
        fs::create_dir_all(dir)?;
        let configuration = dir.join("strongswan.conf");
        let log = host.out().join(format!("{}-charon.txt", host.name()));
        let text = format!(
            "charon-systemd {{\n  plugins {{\n    include /etc/strongswan.d/charon/*.conf\n    vici {{\n      \
             socket = unix://{}\n    }}\n  }}\n  filelog {{\n    all {{\n      path = {}\n      default = 1\n      \
             flush_line = yes\n      append = yes\n    }}\n  }}\n}}\n",
            socket.display(),
            log.display()
        );
        fs::write(&configuration, text)?;
        let process = spawn(host, &configuration)?;
        let charon = Self { host: host.clone(), configuration, socket, process };
        charon.wait()?;
        Ok(charon)
    }

    /// `kill -9`, as a crash would: SAs stay in the kernel.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let status = self.process.kill()?;
        fs::remove_file(&self.socket)?;
        Ok(status)
    }

    /// Starts it again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.host, &self.configuration)?;
        self.wait()
    }

    /// Says something to it over its socket; its answer.
    ///
    /// # Errors
    /// When it does not answer, or says no.
    pub fn call(&self, command: &str, message: Message) -> Result<Message> {
        let mut stream = UnixStream::connect(&self.socket).context("VICI socket")?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(&Packet::Request(command.to_owned(), message).frame()?)?;
        let (mut frames, mut bytes) = (Frames::default(), [0; 4096]);
        loop {
            if let Some(packet) = frames.next_packet()? {
                let Packet::Response(answer) = packet else { bail!("{command}: {packet:?}") };
                let success = answer.text("success").unwrap_or("yes");
                ensure!(success == "yes", "{command}: {:?}", answer.text("errmsg"));
                return Ok(answer);
            }
            let count = stream.read(&mut bytes).with_context(|| command.to_owned())?;
            ensure!(count > 0, "{command}: no answer");
            frames.push(bytes.get(..count).unwrap_or_default());
        }
    }

    /// SIGTERM: it tells its peers, and takes its SAs with it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let status = self.process.stop()?;
        let _ = fs::remove_file(&self.socket);
        Ok(status)
    }

    fn wait(&self) -> Result<()> {
        let what = format!("the VICI socket of {}", self.host.name());
        wait::until(START, &what, || wait::ensure(self.socket.exists(), || self.process.log_end()))
    }
}

fn spawn(host: &Host, configuration: &Path) -> Result<Process> {
    let mut command = host.command(PROGRAM);
    command.env("STRONGSWAN_CONF", configuration);
    host.spawn_command("charon", command)
}
