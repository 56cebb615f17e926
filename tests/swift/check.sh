#!/usr/bin/env bash
# tests/swift/check.sh dist/bundle/ios: the bundle's Swift through a compiler (6.0), in both language modes, without a warning. Core ML and Core
# Graphics are stubs, so that it needs no Mac.
set -euo pipefail
sources=$(cd "$1"/Sources/* && pwd)
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for module in CoreML CoreGraphics; do
  swiftc -emit-library -emit-module -module-name "$module" "$module.swift" -o "$work/lib$module.so" \
    -emit-module-path "$work/$module.swiftmodule"
done
for version in 5 6; do
  swiftc -typecheck -swift-version "$version" -warnings-as-errors -I "$work" "$sources"/*.swift Module.swift
  echo "Swift $version: compiles"
done
