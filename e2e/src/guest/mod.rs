//! A guest: a Linux kernel with GRE, ESP and nft that runs one command and powers off.
//!
//! Where the running kernel lacks them, it is a User-Mode-Linux kernel (built once by
//! `scripts/guest-kernel.sh`) whose root is this machine's root, read-only, below a tmpfs overlay: whatever is
//! installed or built here runs there. Where the running kernel has them and we are root, fresh namespaces
//! do. The command, its status, the console and all results pass through one folder.
//!
//! A guest is pinned to one CPU (unpinned it is five to ten times slower), and as many run at once as there
//! are CPUs ([`slots`]). Each boot and each run has a deadline; what is left is killed by process id.

pub mod processes;
pub mod slots;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{paths, wait};

const INIT: &str = include_str!("../../guest/init");
const STAGE2: &str = include_str!("../../guest/stage2");
const NATIVE: &str = include_str!("../../guest/native");
const ENTER_LINE: &str = include_str!("../../guest/enter-line");

/// A boot takes below a second on a quiet machine; this is for one that is busy building.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// Which kernel a guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Our own kernel, started as a process.
    Guest,
    /// The running kernel, in fresh namespaces.
    Native,
}

impl Engine {
    /// What this machine can do; `DMVPN_LAB_ENGINE=guest|native` overrides it.
    ///
    /// # Errors
    /// When the probe does not run or its answer is not known.
    pub fn detect() -> Result<Self> {
        match kernel_script("engine")?.as_str() {
            "guest" => Ok(Self::Guest),
            "native" => Ok(Self::Native),
            other => bail!("DMVPN_LAB_ENGINE must be guest or native, not {other:?}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Native => "native",
        }
    }
}

/// Where the output of the command goes.
#[derive(Clone, Debug)]
pub enum Output {
    /// To our own standard output, as it comes.
    Inherit,
    /// To a file; the guest is then on its own and outlives us.
    Detached(PathBuf),
}

/// One command to be run in a guest.
#[derive(Clone, Debug)]
pub struct Job {
    /// A bash script.
    pub script: String,
    /// The results folder; `/mnt/out` inside, `$DMVPN_LAB_OUT` in both engines.
    pub out: PathBuf,
    /// Whether the results folder is emptied at the start.
    pub fresh: bool,
    /// Memory of the guest in MiB (Engine::Guest only).
    pub memory_mib: u32,
    /// From boot to exit status, without the wait for a free CPU.
    pub deadline: Duration,
    /// It mostly waits: it may share its CPU with a guest that works.
    pub waits: bool,
    /// Serve shells for [`crate::enter`].
    pub enter: bool,
    /// Further environment of the command.
    pub env: Vec<(String, String)>,
    /// Further words on the kernel's command line (Engine::Guest only).
    pub kernel_args: Vec<String>,
    /// The named network namespace to run in, instead of a fresh one (Engine::Native only).
    pub netns: Option<String>,
}

impl Job {
    /// A job with 768 MiB and two minutes.
    #[must_use]
    pub fn new(script: impl Into<String>, out: PathBuf) -> Self {
        Self {
            script: script.into(),
            out,
            fresh: true,
            memory_mib: 768,
            deadline: Duration::from_secs(120),
            waits: false,
            enter: false,
            env: Vec::new(),
            kernel_args: Vec::new(),
            netns: None,
        }
    }

    /// Runs the job to its end and returns the exit status of the script.
    ///
    /// # Errors
    /// When the guest does not boot, dies, or passes its deadline; then the end of its console is shown.
    pub fn run(&self, output: Output) -> Result<i32> {
        let acquire = if self.waits { slots::acquire_waiting } else { slots::acquire };
        let slot = acquire(slots::DEADLINE)?;
        let running = self.start(output, slot.cpu())?;
        running.wait(self.deadline)
    }

    /// Starts the job pinned to `cpu` and returns when the guest has booted.
    ///
    /// # Errors
    /// When the guest does not boot.
    pub fn start(&self, output: Output, cpu: usize) -> Result<Running> {
        let engine = Engine::detect()?;
        self.prepare(engine)?;
        let detached = matches!(output, Output::Detached(_));
        let stdout = match &output {
            Output::Inherit => Stdio::inherit(),
            Output::Detached(file) => {
                Stdio::from(File::create(file).with_context(|| format!("create {}", file.display()))?)
            }
        };
        let mut command = match engine {
            Engine::Guest => self.guest_command(cpu, detached)?,
            Engine::Native => self.native_command(detached),
        };
        let child = command.stdin(Stdio::null()).stdout(stdout).spawn().context("start the guest")?;
        let mut running = Running { child, out: self.out.clone(), started: Instant::now(), engine, detached };
        let ours = self.out.join(".guest");
        fs::write(ours.join("pid"), running.child.id().to_string())?;
        wait::until(BOOT_DEADLINE, "the guest to boot", || {
            if ours.join("boot").exists() {
                return Ok(Ok(()));
            }
            match running.child.try_wait()? {
                Some(status) => Ok(Err(status)),
                None => bail!("no sign of life yet"),
            }
        })
        .and_then(|alive| {
            alive.or_else(|status| match running.status() {
                Some(_) => Ok(()),
                None => bail!("the guest died while booting ({status})"),
            })
        })
        .map_err(|error| running.with_console(error))?;
        Ok(running)
    }

    fn prepare(&self, engine: Engine) -> Result<()> {
        let ours = self.out.join(".guest");
        if self.fresh && self.out.exists() {
            fs::remove_dir_all(&self.out).with_context(|| format!("empty {}", self.out.display()))?;
        }
        fs::create_dir_all(&ours).with_context(|| format!("create {}", ours.display()))?;
        for (name, text) in
            [("init", INIT), ("stage2", STAGE2), ("native", NATIVE), ("enter-line", ENTER_LINE)]
        {
            let path = ours.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        fs::write(ours.join("engine"), engine.name())?;
        fs::write(ours.join("cmd"), self.command_file()?)?;
        Ok(())
    }

    /// Environment, working folder and script: a guest inherits none of them.
    fn command_file(&self) -> Result<String> {
        let passed = ["DMVPN_", "RUST_", "CARGO_", "NEXTEST_", "INSTA_", "PROPTEST_"];
        let mut text = String::new();
        for (name, value) in env::vars() {
            // Cargo sets names (CARGO_BIN_EXE_a-b) that no shell takes.
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let passed = plain && passed.iter().any(|p| name.starts_with(p));
            if passed && name != paths::OUT && name != paths::INSIDE {
                text += &format!("export {name}={}\n", quote(&value));
            }
        }
        for (name, value) in &self.env {
            text += &format!("export {name}={}\n", quote(value));
        }
        text += &format!("export {}={}\n", paths::OUT_OUTSIDE, quote(&self.out.to_string_lossy()));
        text += &format!("cd {}\n", quote(&env::current_dir()?.to_string_lossy()));
        text += &self.script;
        text.push('\n');
        Ok(text)
    }

    fn guest_command(&self, cpu: usize, detached: bool) -> Result<Command> {
        let kernel =
            kernel_script("path").context("the guest kernel is not built: e2e/scripts/bootstrap.sh")?;
        let out = self.out.to_string_lossy();
        let guest = format!("{out}/.guest");
        // Console to fd 3, the command's serial line to fd 4 = our standard output.
        let wiring = r#"dir=$1; shift; exec "$@" 3>"$dir/console" 4>&1 1>"$dir/console.early" 2>&1"#;
        let mut command = Command::new("bash");
        command.args(["-c", wiring, "guest", &guest]);
        command.args(lifetime(detached));
        command.args(["taskset", "-c", &cpu.to_string(), &kernel]);
        command.arg(format!("mem={}M", self.memory_mib));
        command.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", "con=null"]);
        command.args(["con0=null,fd:3", "ssl=null", "ssl0=null,fd:4"]);
        command.arg(format!("init={guest}/init")).arg(format!("uml_dir={guest}/uml"));
        command.arg(format!("lab.out={out}")).args(&self.kernel_args);
        if self.enter {
            command.args(["ssl1=pts", "ssl2=pts", "ssl3=pts", "lab.enter=1"]);
        }
        if let Some(dir) = memory_dir(self.memory_mib) {
            command.env("TMPDIR", dir);
        }
        Ok(command)
    }

    fn native_command(&self, detached: bool) -> Command {
        let lifetime = lifetime(detached);
        let mut command = Command::new(lifetime[0]);
        command.args(&lifetime[1..]);
        match &self.netns {
            Some(name) => command.args(["ip", "netns", "exec", name, "unshare"]),
            None => command.args(["unshare", "-n"]),
        };
        command.args(["-m", "-u", "-i", "-p", "--fork", "--kill-child", "--mount-proc", "bash"]);
        command.arg(self.out.join(".guest/native"));
        command.env(paths::OUT, &self.out);
        command
    }
}

/// A guest that has booted.
#[derive(Debug)]
pub struct Running {
    child: Child,
    out: PathBuf,
    started: Instant,
    engine: Engine,
    detached: bool,
}

impl Running {
    /// Process id outside the guest.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status of the command, once it has ended.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        fs::read_to_string(self.out.join(".guest/rc")).ok()?.trim().parse().ok()
    }

    /// Waits for the end of the command and of the guest.
    ///
    /// # Errors
    /// When `deadline` (since the start) passes or the guest dies without a status.
    pub fn wait(mut self, deadline: Duration) -> Result<i32> {
        let left = deadline.saturating_sub(self.started.elapsed());
        let ended = wait::until_max(left, Duration::from_millis(25), "the guest to finish", || {
            self.child.try_wait()?.context("still running")
        });
        match (ended, self.status()) {
            (Ok(_), Some(status)) => Ok(status),
            // The command has ended and only the power-off hangs.
            (Err(_), Some(status)) => {
                self.kill();
                Ok(status)
            }
            (Ok(exit), None) => Err(self.with_console(anyhow::anyhow!("the guest died ({exit})"))),
            (Err(error), None) => {
                self.kill();
                Err(self.with_console(error))
            }
        }
    }

    fn kill(&mut self) {
        processes::kill_tree(self.child.id());
        // Reaped here; that it is gone already is no failure.
        let _ = self.child.wait();
    }

    fn with_console(&self, error: anyhow::Error) -> anyhow::Error {
        let mut text = format!("{error:#} ({:?}, results in {})", self.engine, self.out.display());
        for name in ["console.early", "console"] {
            let console = fs::read_to_string(self.out.join(".guest").join(name)).unwrap_or_default();
            let lines: Vec<&str> = console.lines().collect();
            for line in &lines[lines.len().saturating_sub(15)..] {
                text += &format!("\n  {name}: {line}");
            }
        }
        anyhow::Error::msg(text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.detached && matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// `text` as one word of a shell.
#[must_use]
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A guest dies with us, except one that is meant to stay.
fn lifetime(detached: bool) -> &'static [&'static str] {
    if detached { &["setsid"] } else { &["setpriv", "--pdeathsig", "TERM"] }
}

fn kernel_script(what: &str) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/guest-kernel.sh");
    let output = Command::new(&script).arg(what).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("run {}", script.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        bail!("{} {what}: {} {text}", script.display(), output.status);
    }
    Ok(text)
}

/// The guest's memory is a file in /dev/shm; where that is too small (containers) it lies in the cache.
fn memory_dir(memory_mib: u32) -> Option<PathBuf> {
    let output = Command::new("df").args(["--output=avail", "-m", "/dev/shm"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let available: u64 = text.lines().nth(1)?.trim().parse().ok()?;
    (available < u64::from(memory_mib)).then(paths::cache)
}
