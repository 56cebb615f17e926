//! The sources of a bundle: static files with the bundle's name in them, and one with its constants.

use snapc_coreml::MinOs;
use snapc_frontends::Part;
use snapc_ir::{Error, Result};

use super::Platform;
use super::config::{Delivery, Names, identifier};
use super::devices::DeviceEntry;
use super::entry::{PackEntry, SharedEntry, SubnetEntry};
use super::text::{Language, fill};
use super::tokenizer::Settings;
use crate::files::{FileEntry, digest_of};
use crate::manifest::{Manifest, PartEntry, PortEntry};
use crate::options::Bake;

/// Fewer numbers are drawn by another rule of PyTorch's, which the sources have not.
const LEAST_NOISE: usize = 16;

/// What the sources say.
pub struct Sources<'a> {
    /// The platform.
    pub platform: Platform,
    /// What things are called.
    pub names: &'a Names,
    /// The networks' manifests, the smallest first.
    pub manifests: &'a [&'a Manifest],
    /// What they share.
    pub shared: &'a SharedEntry,
    /// The networks.
    pub subnets: &'a [SubnetEntry],
    /// The classes of devices.
    pub devices: &'a [DeviceEntry],
    /// The tokenizer; only Python has another one's code.
    pub tokenizer: Option<&'a Settings>,
    /// The oldest system, for iOS.
    pub min_os: MinOs,
}

impl Sources<'_> {
    /// The files: paths in the bundle and texts.
    ///
    /// # Errors
    /// If the schedule is none that the sources walk, or something is missing.
    pub fn files(&self) -> Result<Vec<(String, String)>> {
        self.check()?;
        match self.platform {
            Platform::Ios => self.swift(),
            Platform::Android => self.kotlin(),
            Platform::Desktop => Ok(vec![(
                "generate.py".to_string(),
                include_str!("templates/desktop/generate.py").to_string(),
            )]),
        }
    }

    fn manifest(&self) -> Result<&Manifest> {
        self.manifests.first().copied().ok_or_else(|| Error::bug("a bundle without networks"))
    }

    /// What the sources take for granted.
    fn check(&self) -> Result<()> {
        let manifest = self.manifest()?;
        let inner = &manifest.schedule.sigmas[1..manifest.schedule.sigmas.len() - 1];
        if manifest.schedule.rule == "stochastic" && inner.contains(&0.0) {
            return Err(Error::limit(
                "a step before the last ends at the sigma 0, where a bundle's sources draw noise",
            ));
        }
        let numbers = self.latent_count()?;
        if numbers < LEAST_NOISE {
            return Err(Error::limit(format!(
                "a latent of {numbers} numbers: a bundle's sources draw {LEAST_NOISE} or more"
            ))
            .help("take a larger --size"));
        }
        Ok(())
    }

    fn latent_count(&self) -> Result<usize> {
        let output = entry(self.manifest()?, Part::Transformer)?.outputs.first();
        output
            .map(|port| port.shape.iter().product())
            .ok_or_else(|| Error::bug("a transformer without outputs"))
    }

    fn swift(&self) -> Result<Vec<(String, String)>> {
        let class = &self.names.class;
        let name = [("NAME", class.clone())];
        let [ios, macos] = match self.min_os {
            MinOs::Ios16 => ["16.0", "13.0"],
            MinOs::Ios17 => ["17.0", "14.0"],
            MinOs::Ios18 => ["18.0", "15.0"],
        };
        let systems = [("IOS", ios.to_string()), ("MACOS", macos.to_string())];
        let package = fill(include_str!("templates/ios/Package.swift"), &[&name[..], &systems].concat())?;
        let mut files = vec![("Package.swift".to_string(), package)];
        for (file, template) in [
            (format!("{class}.swift"), include_str!("templates/ios/Bundle.swift")),
            ("Tokenizer.swift".to_string(), include_str!("templates/ios/Tokenizer.swift")),
        ] {
            files.push((format!("Sources/{class}/{file}"), fill(template, &name)?));
        }
        let noise = include_str!("templates/ios/Noise.swift").to_string();
        files.push((format!("Sources/{class}/Noise.swift"), noise));
        let constants = [&name[..], &self.constants(Language::Swift)?].concat();
        let constants = fill(include_str!("templates/ios/Configuration.swift"), &constants)?;
        files.push((format!("Sources/{class}/Configuration.swift"), constants));
        Ok(files)
    }

    fn kotlin(&self) -> Result<Vec<(String, String)>> {
        let Names { class, package, assets } = self.names;
        let own = [("PACKAGE", package.clone())];
        let named = [&own[..], &[("NAME", class.clone())]].concat();
        let folder = format!("kotlin/{}", package.replace('.', "/"));
        let mut files = Vec::new();
        for (file, template, holes) in [
            (format!("{class}.kt"), include_str!("templates/android/Bundle.kt"), &named[..]),
            ("Types.kt".to_string(), include_str!("templates/android/Types.kt"), &named[..]),
            ("Tokenizer.kt".to_string(), include_str!("templates/android/Tokenizer.kt"), &named[..]),
            ("Noise.kt".to_string(), include_str!("templates/android/Noise.kt"), &own[..]),
        ] {
            files.push((format!("{folder}/{file}"), fill(template, holes)?));
        }
        let swift = Language::Kotlin;
        let pack = |pack: &Option<PackEntry>| -> Result<String> {
            let PackEntry { name, delivery } =
                pack.as_ref().ok_or_else(|| Error::bug("a network without a pack"))?;
            Ok(format!("AssetPack({}, {})", swift.text(name), *delivery == Delivery::InstallTime))
        };
        let mut packs = Vec::new();
        for subnet in self.subnets {
            packs.push(format!("        {} to {},", case(swift, &subnet.name), pack(&subnet.pack)?));
        }
        let constants = [
            &own[..],
            &[
                ("ASSETS", swift.text(assets)),
                ("SHARED_PACK", pack(&self.shared.pack)?),
                ("PACKS", packs.join("\n")),
            ],
            &self.constants(swift)?,
        ]
        .concat();
        let constants = fill(include_str!("templates/android/Configuration.kt"), &constants)?;
        files.push((format!("{folder}/Configuration.kt"), constants));
        let mut seen: Vec<&PackEntry> = Vec::new();
        for pack in self.subnets.iter().map(|one| &one.pack).chain([&self.shared.pack]).flatten() {
            if !seen.contains(&pack) {
                seen.push(pack);
                let holes = [("PACK", pack.name.clone()), ("DELIVERY", pack.delivery.name().to_string())];
                let script = fill(include_str!("templates/android/build.gradle.kts"), &holes)?;
                files.push((format!("{}/build.gradle.kts", pack.name), script));
            }
        }
        Ok(files)
    }

    /// What Swift and Kotlin say alike.
    fn constants(&self, language: Language) -> Result<Vec<(&'static str, String)>> {
        let manifest = self.manifest()?;
        let text_encoder = entry(manifest, Part::TextEncoder)?;
        let vae_decoder = entry(manifest, Part::VaeDecoder)?;
        let (mut cases, mut transformers) = (Vec::new(), Vec::new());
        for (subnet, manifest) in self.subnets.iter().zip(self.manifests) {
            let (case, label) = (case(language, &subnet.name), language.text(&subnet.name));
            let part = self.part(language, entry(manifest, Part::Transformer)?, Some(subnet))?;
            match language {
                Language::Swift => {
                    cases.push(format!("        case {} = {label}", case.trim_start_matches('.')));
                    transformers.push(format!("        {case}: {part},"));
                }
                Language::Kotlin => {
                    cases.push(format!("    {}({label}),", case.trim_start_matches("Subnet.")));
                    transformers.push(format!("        {case} to {part},"));
                }
            }
        }
        let [height, width] = manifest.options.size;
        let rule = |rule: &str| (manifest.schedule.rule == rule).to_string();
        let mut holes = vec![
            ("CASES", cases.join("\n")),
            ("TEXT_ENCODER", self.part(language, text_encoder, None)?),
            ("TRANSFORMERS", transformers.join("\n")),
            ("VAE_DECODER", self.part(language, vae_decoder, None)?),
            ("UNROLLED", (manifest.options.bake == Bake::Unrolled.name()).to_string()),
            ("STEPS", (manifest.schedule.sigmas.len() - 1).to_string()),
            ("STOCHASTIC", rule("stochastic")),
            ("GUIDED", manifest.options.guidance.is_some().to_string()),
            ("LATENT_COUNT", self.latent_count()?.to_string()),
            ("HEIGHT", height.to_string()),
            ("WIDTH", width.to_string()),
            (
                "DEVICES",
                self.devices.iter().map(|device| row(language, device)).collect::<Vec<_>>().join("\n"),
            ),
        ];
        holes.extend(tokenizer(
            language,
            self.tokenizer.ok_or_else(|| Error::bug("sources without a tokenizer"))?,
        ));
        Ok(holes)
    }

    /// A part as a constant; a transformer is in its network's folder.
    fn part(&self, language: Language, part: &PartEntry, subnet: Option<&SubnetEntry>) -> Result<String> {
        let (folder, inside, files) = match subnet {
            Some(subnet) => (format!("subnets/{}", subnet.name), &subnet.folder, &subnet.files),
            None => ("shared".to_string(), &self.shared.folder, &self.shared.files),
        };
        let path = ("path", language.text(&format!("{folder}/{}", part.artifact)));
        let second = match language {
            Language::Swift => {
                ("digest", language.text(&digest(files, &format!("{inside}/{}", part.artifact))))
            }
            Language::Kotlin => ("signature", language.text(snapc_tflite::ONLY_SIGNATURE)),
        };
        let inputs = part.inputs.iter().map(|input| port(language, input)).collect::<Result<Vec<_>>>()?;
        let [output] = &part.outputs[..] else { return Err(Error::bug("a part with several outputs")) };
        let arguments =
            [path, second, ("inputs", language.list(inputs)), ("output", port(language, output)?)];
        let arguments = arguments.map(|(label, value)| language.argument(label, &value));
        Ok(format!("Part({})", arguments.join(", ")))
    }
}

/// The entry of a part.
fn entry(manifest: &Manifest, part: Part) -> Result<&PartEntry> {
    manifest
        .part(part, manifest.options.size)
        .ok_or_else(|| Error::bug(format!("no {} was compiled", part.name())))
}

/// The digest of an artifact: of its files' digests and names.
fn digest(files: &[FileEntry], artifact: &str) -> String {
    let own = files.iter().filter_map(|file| Some((file.path.strip_prefix(artifact)?, &file.sha256)));
    digest_of(own.map(|(path, sha256)| format!("{sha256} {path}\n")).collect::<String>().as_bytes())
}

fn port(language: Language, port: &PortEntry) -> Result<String> {
    let dtype = match (language, port.dtype.as_str()) {
        (Language::Swift, "f32") => ".float32",
        (Language::Swift, "i32") => ".int32",
        (Language::Kotlin, "f32") => "PortType.FLOAT32",
        (Language::Kotlin, "i32") => "PortType.INT32",
        (_, other) => return Err(Error::bug(format!("the port {} is {other}", port.name))),
    };
    let shape = language.list(port.shape.iter().map(usize::to_string));
    let arguments = [("name", language.text(&port.name)), ("type", dtype.to_string()), ("shape", shape)];
    let arguments = arguments.map(|(label, value)| language.argument(label, &value));
    Ok(format!("Port({})", arguments.join(", ")))
}

/// A network as a case of the enumeration.
fn case(language: Language, label: &str) -> String {
    let name = identifier(label);
    match language {
        Language::Swift if SWIFT_WORDS.contains(&name.as_str()) => format!(".`{name}`"),
        Language::Swift => format!(".{name}"),
        Language::Kotlin => format!("Subnet.{}", name.to_ascii_uppercase()),
    }
}

/// Words that are no names without marks around them.
const SWIFT_WORDS: [&str; 53] = [
    "Any",
    "Self",
    "Type",
    "as",
    "associatedtype",
    "await",
    "break",
    "case",
    "catch",
    "class",
    "continue",
    "default",
    "defer",
    "deinit",
    "do",
    "else",
    "enum",
    "extension",
    "fallthrough",
    "false",
    "fileprivate",
    "for",
    "func",
    "guard",
    "if",
    "import",
    "in",
    "init",
    "inout",
    "internal",
    "is",
    "let",
    "nil",
    "operator",
    "private",
    "protocol",
    "public",
    "repeat",
    "rethrows",
    "return",
    "self",
    "static",
    "struct",
    "subscript",
    "super",
    "switch",
    "throw",
    "throws",
    "true",
    "try",
    "typealias",
    "var",
    "where",
];

fn row(language: Language, device: &DeviceEntry) -> String {
    let memory = match language {
        Language::Swift => device.reported().to_string(),
        Language::Kotlin => format!("{}L", device.reported()),
    };
    let arguments = [
        ("name", language.text(&device.name)),
        ("memory", memory),
        ("chips", language.list(device.chips.iter().map(|chip| language.text(chip)))),
        ("subnet", case(language, &device.subnet)),
    ];
    let arguments = arguments.map(|(label, value)| language.argument(label, &value));
    format!("        DeviceClass({}),", arguments.join(", "))
}

fn tokenizer(language: Language, settings: &Settings) -> Vec<(&'static str, String)> {
    let ids = |ids: &[u32]| language.list(ids.iter().map(u32::to_string));
    let none = match language {
        Language::Swift => "nil",
        Language::Kotlin => "null",
    };
    let added = settings.added.iter().map(|(text, id)| match language {
        Language::Swift => format!("            ({}, {id}),", language.text(text)),
        Language::Kotlin => format!("            Pair({}, {id}),", language.text(text)),
    });
    vec![
        ("TOKENS", settings.tokens.to_string()),
        ("BEFORE", ids(&settings.before)),
        ("AFTER", ids(&settings.after)),
        ("PADDING", settings.padding.to_string()),
        ("UNKNOWN", settings.unknown.map_or(none.to_string(), |id| id.to_string())),
        ("SUFFIX", language.text(&settings.suffix)),
        ("COMPOSES", settings.composes.to_string()),
        ("LOWERCASES", settings.lowercases.to_string()),
        ("ADDED", added.collect::<Vec<_>>().join("\n")),
    ]
}
