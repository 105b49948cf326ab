"""What a store says of itself, made up."""


def spec_of(model="mobilenetv2_100", dataset="cifar10", source="hub", size=128):
    return {
        "dataset": {"name": dataset, "digest": "ab" * 32, "limit": None},
        "model": {
            "name": model,
            "args": {"pad_type": "same"},
            "weights": {"source": source, "digest": "cd" * 32},
        },
        "preprocessing": {
            "image_size": size, "crop_pct": 0.875, "crop_mode": "center",
            "interpolation": "bicubic", "antialias": True,
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        },
        "pool": "default", "precision": "fp32", "store_dtype": "float32", "seed": None,
    }  # fmt: skip
