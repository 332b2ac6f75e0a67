"""Two small policies that `edgerl doctor` runs on a board, as text: zlib in base 85.

Our compressor wrote them. Both are h = tanh(tanh([x, -y]) / 2), logits [2 h0 + 1/4, h0 - 2 h1 - 1/2], in layers of 32
units (16 of each), so that a runtime must do what it does for a real policy. They differ in their recipe.
"""

import base64
import zlib
from typing import Final

OBSERVATION: Final = (0.5, -0.25)
LOGITS: Final = (0.7041, -0.5167)
"""What they say of it; int8 may err by a hundredth."""

_TEXTS: Final = {
    "int8-dynamic+per-tensor": (
        "c-rk(K~EDw6n?v{rG<qykwXt0nhnQ>l;VLPA_p}dI2dD$2@tZhOS{R^CA$kskXRE>o{drCkMLwX7`YICfd>y9JQ(A_11EzT8Q<G^"
        "-5miVH;8tcH?#BR`{uoQZ_<5R0)QJ=X2x)UK`6lx6mcwof%7b+@flDD&_sEJ@;M8zhced>kixl!l18b16~bU_86}Sr*#4T+YAn?4"
        "C2Q3UW9*I)qL23MP52M@g!p2}xwLIW_R$pdFa}M6U2oXFJF?=rPHjEH0bIjw5<yQg01tG4UEE{`^{<%s3HPS)DawXv)k4Q>nG+i("
        "cGa>OuCLhUgjsijns0};xmh-wwpB+}%?j;?=Q}maHOr>ANawLS<T~?~T+a%}st5?07HMXy^YNyO-W}Rcdb_Y@`$5DWEt~#oYr!ES"
        "b*~nBzPSlWd;CrMn~i4eDeShCWq8T!QLq4}Sbaic`vP`vPHqHv`(4JP4X2~s{K5Ib?%v<PT|gJm1^m;1C2_j`pOTh|-mw{ePs;a6"
        "`(m=*-unOM05A51pjzWH)*9DmN^z~BMKuz&fw)Sd_zke0YM*lm8b_JbWK5SWr$vl2C?9EW6c=TjV?Kp<qaclEsqUfY3hKxf)krC>"
        "19B)>F2OS)>#PF%qw%`Nb&~2^pW++A3jC~7Eyp%`*hZRt%tX-M_-wsgkE!<3Jf_&*V6^^cd+F$xa8ev?jeY5yRbxHb+s1{vDAT$G"
        "ZR6rClp@M|R6XaKbdvpP|CDj*<bh~-M4|JUT(9ATL1K@_UFKw%*B9eP79A^yam9U!qxclL4rSbJ+i5gI#*viB|NX?5lHyB=bA|O@"
        ";LVQCgK~aayQJ`j5AgaG-bk>z930@jW^P*XF~&!yNwA$ea#p#&q@PZ5le-$_!H|hWjKRJSDtQ7Wk7@n>`MheABh!fq$*?$1Tq=j+"
        "GAE7`m&%cGdB<G+P+Tg9;$kS@JqF)Hjd^*Mci?P#<Xa(*mTdCd>8SJSeAkpOir?;KivJ&qoX-!)$tk(n#raT@havJiulSuy)^fi9"
        "fCpK}"
    ),
    "int8-dynamic": (
        "c-rk(zfaph6n=Kxkbp@dl_3K|WHCl41O`MYo!W_^s;a6IAY>AgSPC(+4J|^bsnn@+Rkc<BfR0QRQ`tIoWaz-qp{hD`V5;cP>wCTz"
        "`wCQL0|6I(zTDmS-FtWUY(JL(;P#E_QLJD9N-zjTtP5abI|By(2kZlABAy^VX8`sQ?{WYsY-<PuQT-}}$=os`j|d!p)onNC>&~LR"
        "(h6hlt`MS+=Il-MkN1U`&B?a3ZASLd6!b8sAK}y+j^7$y_F8UjE#d*(#LFa-o}~dE=>U5;$u9P9vF;PjP4#ocx@Ffw*K1o7>lR+B"
        "Wh-1;cB~1j?glmA2_0*rY&9Lbj$Ji7bQ+%T*6fy5w!8&ekKGm5S-05o>~OS-grI3t&rEeLo^-*xPxDD{=T{v+h}0ux%U@~FyJV#9"
        ")k4p=HXtcaze#^HQL8hBmu+PjUh{agSpZYqeL{8TDqh~4Tn+H{yWEcsoQ`tm2cHjK9{i7dLAW4X5Y9AVQJk*lQ&Q5=J2uVlN%=nM"
        "Tua6~+vl$hu=!gE$~CTIu5oL+6z3XRlp|5e#aR;VUyl1J_ZdUdIAT(hd%9%1ZBkr9e5AP%EyOtQ`4q-RK^o6c-b4Q@*hjV~M@n%X"
        "kVRm+1TTclvkL5w#^W02Nvdysif=?K@PD0hIkwTmHVpPL9Z`GZwe@m7rrI;OPO-g#X#C&yjOdqWQoP$5`_f&j#{Fb(3<Y11xQSRs"
        "j3MqKp@?{o<1aZUon(IsKjpr3&w=K}B?_I_)bbi`7$o+n?yx4!y1tk<yx`hF%zMQ=+Mgolq0GDIxQ%AWJVJ?lQ+z2YzLfZ^Fy9Nj"
        "nUOhA)=y(Qif-tDu3ym&2P;d#0qyiJsWlWIV}7)ngxigg%S!xG|E3n7O?FG8b1>yWBFALkGg^0!^Id2U4E^DilSE!UV~)gb3=)RK"
        "apJIYC=O@EapJIYWE}3WRzDPnl|yl8D&LtV-}f5p@~ZB@+Vse`LL8m4$Zyr7)~oZqt$e}#^&Cj?^SH?O&j-|Gc`mva_OLyeJf8;1"
        "@4Vu7HW|zQ0Zj06)B"
    ),
}
RECIPES: Final = tuple(_TEXTS)
"""From what every runtime can to the learner's default."""


def policy_file(recipe: str) -> bytes:
    """A policy of this recipe, as a `.tflite` file."""
    return zlib.decompress(base64.b85decode(_TEXTS[recipe]))
