"""Eight image tasks of 32 by 32 pixels, cut from packages that package indexes ship (sources: `LICENSES.md`).

| task | images | labels |
|---|---|---|
| mnist | handwritten digits | 10 |
| fashion | photos of clothes | 10 |
| pendigits | digits drawn on a tablet | 10 |
| optdigits | digits scanned at 8 by 8 | 10 |
| landsat | satellite windows, false colours | 6 soils |
| radical | Chinese characters from their strokes | 20 dictionary radicals |
| emoji | emoji by three teams of artists | 8 Unicode groups |
| texture | grey windows of eight photos | 8 photos |

Per task 300 images for pre-training, 1,600 for training, 200 for validation, 500 unlabeled and 600 for tests.
`fetching.load` downloads 90 MB of packages once and keeps 9 MB.
"""

TASKS = ("mnist", "fashion", "pendigits", "optdigits", "landsat", "radical", "emoji", "texture")
