// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "__NAME__",
    platforms: [.iOS("__IOS__"), .macOS("__MACOS__")],
    products: [.library(name: "__NAME__", targets: ["__NAME__"])],
    targets: [
        // Copied as they are: `process` would put the transformers of all subnets into one folder under one name.
        .target(name: "__NAME__", resources: [.copy("Models")])
    ]
)
