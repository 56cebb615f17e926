plugins {
    id("com.android.asset-pack")
}

assetPack {
    packName.set("__PACK__")
    dynamicDelivery {
        deliveryType.set("__DELIVERY__")
    }
}
