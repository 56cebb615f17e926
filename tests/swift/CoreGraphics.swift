// What of Core Graphics the Swift of bundles names, for systems that have none: it draws nothing.
import Foundation

public typealias CFData = Data

public class CGDataProvider {
    public init?(data: CFData) {}
}

public class CGColorSpace {
    public static let sRGB = "sRGB"

    public init?(name: String) {}
}

public struct CGBitmapInfo {
    public init(rawValue: UInt32) {}
}

public enum CGImageAlphaInfo: UInt32 {
    case noneSkipLast = 5
}

public enum CGColorRenderingIntent {
    case defaultIntent
}

public class CGImage {
    public init?(
        width: Int, height: Int, bitsPerComponent: Int, bitsPerPixel: Int, bytesPerRow: Int, space: CGColorSpace,
        bitmapInfo: CGBitmapInfo, provider: CGDataProvider, decode: UnsafePointer<Double>?, shouldInterpolate: Bool,
        intent: CGColorRenderingIntent
    ) {}
}
