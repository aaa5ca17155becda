//! `reef-sandbox container`: makes a container's root file system, drops what is left of its privileges
//! and becomes its program.
//!
//! It starts in a user namespace that maps only the container's user, with all capabilities there, and in
//! a mount namespace of its own.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Component, Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
        mount_remount, unmount,
    },
    process::pivot_root,
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
        set_no_new_privs,
    },
};

use super::spec::ContainerSpec;

/// Folders of this machine that every container sees, read-only: they hold the shared libraries that an
/// image would bring.
const HOST_FOLDERS: [&str; 5] = ["/usr", "/lib", "/lib64", "/bin", "/sbin"];

const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Becomes the container's program. Returns only with what prevented it.
pub fn run(spec: &ContainerSpec) -> io::Error {
    match prepare(spec) {
        Ok(()) => exec(spec),
        Err(error) => error,
    }
}

fn exec(spec: &ContainerSpec) -> io::Error {
    let Some((program, arguments)) = spec.argv.split_first() else {
        return io::Error::other("the container has no command");
    };
    let error =
        Command::new(program).args(arguments).env_clear().envs(&spec.env).current_dir(&spec.cwd).exec();
    io::Error::new(error.kind(), format!("exec {program}: {error}"))
}

fn prepare(spec: &ContainerSpec) -> io::Result<()> {
    let root = &spec.root;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(tmpfs_options()?.as_c_str()))
        .map_err(at("mount", root))?;
    for folder in HOST_FOLDERS {
        host_folder(root, Path::new(folder))?;
    }
    for folder in ["proc", "dev", "etc", "tmp", "var", "run", "old-root"] {
        fs::create_dir_all(root.join(folder))?;
    }
    bind(Path::new("/proc"), &root.join("proc"), false)?;
    for device in DEVICES {
        let target = root.join(&device[1..]);
        fs::write(&target, "")?;
        bind(Path::new(device), &target, false)?;
    }
    etc(root, spec)?;
    for volume in &spec.mounts {
        let target = inside(root, &volume.target)?;
        if volume.source.is_dir() {
            fs::create_dir_all(&target)?;
        } else {
            fs::create_dir_all(target.parent().unwrap_or(root))?;
            if !target.exists() {
                fs::write(&target, "")?;
            }
        }
        bind(&volume.source, &target, volume.read_only)?;
    }
    if spec.read_only_root {
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(root, flags, c"").map_err(at("remount", root))?;
    }
    pivot_root(root, root.join("old-root")).map_err(at("pivot_root", root))?;
    std::env::set_current_dir("/")?;
    unmount("/old-root", UnmountFlags::DETACH).map_err(at("unmount", Path::new("/old-root")))?;
    drop_privileges()
}

/// Leaves no capability to the program, whatever its user id: neither now nor by an exec of its own.
fn drop_privileges() -> io::Result<()> {
    clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().iter() {
        // Bits that this kernel has no capability for are refused.
        let _ = remove_capability_from_bounding_set(capability);
    }
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED)?;
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

fn tmpfs_options() -> io::Result<CString> {
    CString::new("mode=0755").map_err(io::Error::other)
}

/// The path of `target` below `root`. `..` is refused: it would lead out of the container.
fn inside(root: &Path, target: &Path) -> io::Result<PathBuf> {
    if target.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(io::Error::other(format!("mountPath {} must not contain ..", target.display())));
    }
    Ok(root.join(target.strip_prefix("/").unwrap_or(target)))
}

/// Shows a folder of this machine; a symbolic link such as /lib -> usr/lib stays one.
fn host_folder(root: &Path, folder: &Path) -> io::Result<()> {
    let target = inside(root, folder)?;
    match fs::read_link(folder) {
        Ok(link) => symlink(link, target),
        Err(_) if folder.is_dir() => {
            fs::create_dir_all(&target)?;
            bind(folder, &target, true)
        }
        Err(_) => Ok(()),
    }
}

fn etc(root: &Path, spec: &ContainerSpec) -> io::Result<()> {
    fs::create_dir_all(root.join("etc/ssl"))?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let user = format!("root:x:0:0::/:/bin/false\napp:x:{}:{}::/:/bin/false\n", spec.uid, spec.gid);
    fs::write(root.join("etc/passwd"), user)?;
    if Path::new("/etc/alternatives").is_dir() {
        fs::create_dir_all(root.join("etc/alternatives"))?;
        bind(Path::new("/etc/alternatives"), &root.join("etc/alternatives"), true)?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    mount_bind_recursive(source, target).map_err(at("bind", source))?;
    if read_only {
        // Flags of a mount made by a more privileged namespace are locked and must be repeated.
        let locked = [
            (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
            (StatVfsMountFlags::NODEV, MountFlags::NODEV),
            (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
            (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
            (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        ];
        let have = statvfs(target)?.f_flag;
        let keep = locked.iter().filter(|(f, _)| have.contains(*f)).map(|(_, m)| *m);
        let flags = keep.fold(MountFlags::BIND | MountFlags::RDONLY, |all, flag| all | flag);
        mount_remount(target, flags, c"").map_err(at("remount", target))?;
    }
    Ok(())
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> io::Error {
    let path = path.display().to_string();
    move |errno| io::Error::other(format!("{what} {path}: {errno}"))
}

/// Reads the spec that the pod process wrote.
pub fn read(path: &Path) -> io::Result<ContainerSpec> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

/// What [`super::pod`] has to run so that [`run`] gets its namespaces: the program and its arguments.
pub fn command(spec: &ContainerSpec, spec_file: &Path, program: &Path) -> (String, Vec<String>) {
    let arguments = vec![
        "--user".to_owned(),
        format!("--map-user={}", spec.uid),
        format!("--map-group={}", spec.gid),
        "--keep-caps".to_owned(),
        "--mount".to_owned(),
        "--".to_owned(),
        program.display().to_string(),
        "container".to_owned(),
        spec_file.display().to_string(),
    ];
    ("unshare".to_owned(), arguments)
}

/// The environment that a container starts from.
pub fn base_env(hostname: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME".to_owned(), "/".to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
    ])
}
