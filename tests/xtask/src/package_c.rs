//! `cargo xtask package-c PREFIX`: libzonda as a C or C++ program installs it.
//!
//! The shared library under its three names, the static one with no other global symbols than the
//! header's, headers, and descriptions for pkg-config and CMake, all relative to where they lie.

use std::io;
use std::path::Path;
use std::process::Command;

/// The library's version; its first number is that of the soname.
pub(crate) const VERSION: &str = "1.0.0";
/// What the static library needs of the system, as `rustc --print native-static-libs` has it.
const SYSTEM_LIBRARIES: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc";

/// Installs what was built into `built` (`target/release`) under `prefix`; `headers` is the folder
/// with `zonda.h` and `zonda.hpp`.
///
/// Errors: what was built is not there, a tool of binutils fails, or the prefix cannot be written.
pub(crate) fn package(built: &Path, headers: &Path, prefix: &Path) -> io::Result<()> {
    let library = prefix.join("lib");
    for folder in ["include", "lib/pkgconfig", "lib/cmake/zonda"] {
        std::fs::create_dir_all(prefix.join(folder))?;
    }
    for header in ["zonda.h", "zonda.hpp"] {
        std::fs::copy(headers.join(header), prefix.join("include").join(header))?;
    }
    shared(built, &library)?;
    let functions = functions(&headers.join("zonda.h"))?;
    statically(built, &library, &functions)?;
    let description = PKG_CONFIG.replace("@SYSTEM@", SYSTEM_LIBRARIES);
    std::fs::write(library.join("pkgconfig/zonda.pc"), description)?;
    let cmake = library.join("cmake/zonda");
    let targets = CMAKE.replace("@SYSTEM@", &SYSTEM_LIBRARIES.replace("-l", "").replace(' ', ";"));
    std::fs::write(cmake.join("zondaConfig.cmake"), targets)?;
    std::fs::write(cmake.join("zondaConfigVersion.cmake"), CMAKE_VERSION)
}

fn shared(built: &Path, library: &Path) -> io::Result<()> {
    let whole = format!("libzonda.so.{VERSION}");
    std::fs::copy(built.join("libzonda.so"), library.join(&whole))?;
    for (name, target) in [("libzonda.so.1", whole.as_str()), ("libzonda.so", "libzonda.so.1")] {
        let link = library.join(name);
        // A prefix may be installed into again.
        let _old = std::fs::remove_file(&link);
        #[cfg(unix)]
        std::os::unix::fs::symlink(target, link)?;
        #[cfg(not(unix))]
        std::fs::copy(library.join(target), link)?;
    }
    Ok(())
}

/// One object in which nothing is global but the header's functions: the archive that rustc makes
/// carries the symbols of its runtime, and two such archives do not link together.
fn statically(built: &Path, library: &Path, functions: &[String]) -> io::Result<()> {
    let (object, names) = (library.join("zonda.o"), library.join("zonda.syms"));
    let archive = library.join("libzonda.a");
    std::fs::write(&names, functions.join("\n") + "\n")?;
    let mut link = Command::new("ld");
    link.args(["-r", "--whole-archive"]).arg(built.join("libzonda.a")).arg("-o").arg(&object);
    run(&mut link)?;
    let mut keep = Command::new("objcopy");
    // The compiler's bitcode is of use to its own version only, and stops the linkers of others.
    keep.args(["--remove-section=.llvmbc", "--remove-section=.llvmcmd", "--strip-debug"]);
    keep.arg("--keep-global-symbols").arg(&names).arg(&object);
    run(&mut keep)?;
    let _old = std::fs::remove_file(&archive);
    run(Command::new("ar").arg("rcs").arg(&archive).arg(&object))?;
    std::fs::remove_file(object)?;
    std::fs::remove_file(names)
}

/// The functions that a header declares, sorted.
pub(crate) fn functions(header: &Path) -> io::Result<Vec<String>> {
    let header = std::fs::read_to_string(header)?;
    let declared = header.split("ZONDA_API").filter_map(|after| {
        let before_arguments = after.split_once('(')?.0;
        let name = before_arguments.split_whitespace().last()?.trim_start_matches('*');
        name.starts_with("zonda_").then(|| name.to_owned())
    });
    let mut names: Vec<String> = declared.collect();
    names.sort_unstable();
    Ok(names)
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{status}: {command:?}")))
}

const PKG_CONFIG: &str = "\
prefix=${pcfiledir}/../..
libdir=${prefix}/lib
includedir=${prefix}/include

Name: zonda
Description: Inference runtime for edge appliances
Version: 1.0.0
Cflags: -I${includedir}
Libs: -L${libdir} -lzonda
Libs.private: @SYSTEM@
";

const CMAKE: &str = "\
# zonda::zonda is the shared library, zonda::zonda_static the static one.
get_filename_component(_zonda_prefix \"${CMAKE_CURRENT_LIST_DIR}/../../..\" ABSOLUTE)
if(NOT TARGET zonda::zonda AND EXISTS \"${_zonda_prefix}/lib/libzonda.so.1\")
  add_library(zonda::zonda SHARED IMPORTED)
  set_target_properties(zonda::zonda PROPERTIES
    IMPORTED_LOCATION \"${_zonda_prefix}/lib/libzonda.so.1\"
    IMPORTED_SONAME \"libzonda.so.1\"
    INTERFACE_INCLUDE_DIRECTORIES \"${_zonda_prefix}/include\")
endif()
if(NOT TARGET zonda::zonda_static)
  add_library(zonda::zonda_static STATIC IMPORTED)
  set_target_properties(zonda::zonda_static PROPERTIES
    IMPORTED_LOCATION \"${_zonda_prefix}/lib/libzonda.a\"
    IMPORTED_LINK_INTERFACE_LANGUAGES \"C\"
    INTERFACE_LINK_LIBRARIES \"@SYSTEM@\"
    INTERFACE_INCLUDE_DIRECTORIES \"${_zonda_prefix}/include\")
endif()
unset(_zonda_prefix)
";

const CMAKE_VERSION: &str = "\
set(PACKAGE_VERSION \"1.0.0\")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION OR
   NOT \"${PACKAGE_FIND_VERSION_MAJOR}\" MATCHES \"^(1|)$\")
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
";
